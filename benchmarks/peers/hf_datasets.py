"""Hugging Face datasets: load_dataset, a batched map in two processes, to_parquet. Its cache is empty at first."""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

import pyarrow as pa
from datasets import load_dataset

from benchmarks.peers.network import BATCH_ROWS, classify, load, write_summary


def main(shards: Path, weights: Path, out: Path) -> None:
    """Classify every file of `shards`."""
    network = load(weights)

    def classified(batch: pa.Table) -> dict[str, Any]:
        return classify(network, batch)

    (out / "predictions").mkdir(parents=True)
    files = sorted(map(str, shards.glob("*.parquet")))
    with tempfile.TemporaryDirectory(dir=out) as cache:
        images = load_dataset("parquet", data_files=files, split="train", cache_dir=cache, num_proc=2)
        predictions = images.with_format("arrow").map(
            classified, batched=True, batch_size=BATCH_ROWS, num_proc=2, remove_columns=["pixels"]
        )
        predictions.to_parquet(str(out / "predictions" / "part-0.parquet"))
    write_summary(out)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
