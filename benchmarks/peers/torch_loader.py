"""PyTorch: a DataLoader with two workers that decode, and the model in the main process."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from benchmarks.peers.network import BATCH_ROWS, columns_of, load, pixels_of, write_summary

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Shards(IterableDataset):  # type: ignore[misc]
    """Batches of a folder of Parquet files; each worker takes every second file."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("*.parquet"))

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        for path in self.paths[worker.id :: worker.num_workers]:
            for batch in pq.ParquetFile(path).iter_batches(BATCH_ROWS):
                table = pa.table(batch)
                ids, labels = (torch.from_numpy(table[name].to_numpy().copy()) for name in ("image_id", "label"))
                yield ids, labels, torch.from_numpy(pixels_of(table["pixels"]).copy())


def model(weights: Path) -> torch.nn.Module:
    """The network as a module."""
    tensors = load(weights)
    layers: list[torch.nn.Module] = []
    for number in (1, 2, 3):
        layer = torch.nn.Linear(*tensors[f"W{number}"].shape)
        layer.weight.data = torch.from_numpy(tensors[f"W{number}"].T.copy())
        layer.bias.data = torch.from_numpy(tensors[f"b{number}"].copy())
        layers += [layer, torch.nn.Sigmoid() if number < 3 else torch.nn.Softmax(dim=1)]
    return torch.nn.Sequential(*layers).eval()


def main(shards: Path, weights: Path, out: Path) -> None:
    """Classify every file of `shards`."""
    network = model(weights)
    (out / "predictions").mkdir(parents=True)
    writer = None
    with torch.inference_mode():
        for ids, labels, pixels in DataLoader(Shards(shards), batch_size=None, num_workers=2, prefetch_factor=8):
            table = pa.table(columns_of(ids.numpy(), labels.numpy(), network(pixels).numpy()))
            writer = writer or pq.ParquetWriter(out / "predictions" / "part-0.parquet", table.schema)
            writer.write_table(table)
    assert writer is not None
    writer.close()
    write_summary(out)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
