"""Measures what very many shards cost of the processor, beside what their files cost by themselves.

Run it with `python -m benchmarks.many_shards`; it takes some minutes. The same 60,000 images are evaluated in 200 and
X
synced once more as a run does it, by pyarrow, hashlib and json alone. Compare within one table only.
"""

import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mnist_pipeline import tables

IMAGES = 60_000
SHARDS = (200, 20_000)
SAMPLE = 2000  # shards whose files are made again


def main() -> None:
    """Measure and print the table as Markdown."""
    print("| shards | processor, s | beyond the files, s |")
    print("|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for shards in SHARDS:
            outputs = Path(folder, str(shards))
            used = _run(outputs, IMAGES // shards)
            files = _files(outputs, Path(folder, f"{shards}-files")) * shards
            print(f"| {shards:,} | {used:.1f} | {used - files:.1f} |", flush=True)


def _run(outputs: Path, shard_rows: int) -> float:
    command = [sys.executable, "-m", "mnist_pipeline", "run", "--direct", "--no-report", "--split", "train"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [*command, *sys.argv[1:], "--shard-rows", str(shard_rows), "--outputs", str(outputs)],
        check=True,
        capture_output=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _files(outputs: Path, target: Path) -> float:
    """Seconds of the processor that the files of one shard take."""
    folders = [target / name for name in ("scratch", "images", "image-records", "predictions", "prediction-records")]
    for folder in folders:
        folder.mkdir(parents=True)
    _, kept, kept_records, made, made_records = folders
    images = sorted(outputs.glob("shards/*/images/*"))[:SAMPLE]
    records = [json.loads(each.read_bytes()) for each in sorted(outputs.glob("shards/*/records/*"))[:SAMPLE]]
    predictions = sorted(outputs.glob("runs/*/predictions/*"))[: len(images)]
    shards, predicted = [pq.read_table(each) for each in images], [pq.read_table(each) for each in predictions]
    names = [each.name for each in images]
    begun = time.process_time()
    for name, shard, record in zip(names, shards, records, strict=True):
        _put(kept / name, _encoded(tables.IMAGES, shard))
        _put(kept_records / name, json.dumps(record).encode())
    for name, some, record in zip(names, predicted, records, strict=True):
        _read(kept / name, kept_records / name)
        _put(made / name, _encoded(tables.PREDICTIONS, some))
        _put(made_records / name, json.dumps(record).encode())
    for name in names:
        hashlib.sha256((made / name).read_bytes()).hexdigest()
        _with_handle(made / name, os.fsync)
        (made_records / name).unlink()
    return (time.process_time() - begun) / len(images)


def _encoded(table: tables.Table, data: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, data.schema, write_page_checksum=True, **table.layout) as writer:
        writer.write_table(data)
    encoded = bytes(sink.getvalue())
    hashlib.sha256(encoded).hexdigest()
    return encoded


def _put(path: Path, data: bytes) -> None:
    unfinished = path.parent.with_name("scratch") / path.name
    unfinished.write_bytes(data)
    unfinished.replace(path)


def _read(images: Path, record: Path) -> None:
    json.loads(record.read_bytes())
    data = images.read_bytes()
    hashlib.sha256(data).hexdigest()
    file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
    file.read(columns=["image_id", "label"], use_threads=False)
    for _ in file.iter_batches(1000, columns=["pixels"], use_threads=False):
        pass


def _with_handle(path: Path, act: Callable[[int], None]) -> None:
    handle = os.open(path, os.O_RDONLY)
    act(handle)
    os.close(handle)


if __name__ == "__main__":
    main()
