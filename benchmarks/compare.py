"""Compares mnist-pipeline with the libraries in common use: the same rows, the same weights, whole processes.

    python -m benchmarks.compare --peers .venv-bench/bin/python

Each turns shards into a predictions table with all ten probabilities and a summary, with two workers. mnist-pipeline
reads its own shards, built before; the peers read ordinary list-typed ones. The order rotates from round to round. In
the end all must agree on every digit. Two figures: the time of the whole process at 600k images, and the marginal rate
between 600k and 3M, in which the start-up time cancels out.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.data import bench_folder, idx_folder, list_folder, weights_file
from benchmarks.measure import Measured, machine, run

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
OURS = "mnist-pipeline"
PEERS = {
    "pandas + pyarrow loop": "pandas_loop",
    "PyTorch DataLoader": "torch_loader",
    "Hugging Face datasets": "hf_datasets",
    "Dask": "dask_frame",
    "Spark": "spark_arrow",
    "Ray Data": "ray_data",
}
LIBRARIES = ("numpy", "pandas", "pyarrow", "torch", "datasets", "dask", "pyspark", "ray")


@dataclass(frozen=True)
class Bench:
    """The number of rows, and the Python interpreter of the peers."""

    rows: int
    peers: Path

    @property
    def folder(self) -> Path:
        return bench_folder() / f"out-{self.rows}"

    def run(self, name: str) -> Measured:
        """Run one tool once, with an empty results folder."""
        if name == OURS:
            return self._ours()
        out = self.folder / PEERS[name]
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        words = [self.peers, "-m", f"benchmarks.peers.{PEERS[name]}", list_folder(self.rows), weights_file(), out]
        # Peers that run in parallel by workers get one BLAS thread per worker, as ours does.
        alone = {} if name in ("pandas + pyarrow loop", "PyTorch DataLoader") else {"OPENBLAS_NUM_THREADS": "1"}
        return run(list(map(str, words)), ROOT, {**os.environ, "PYTHONPATH": str(ROOT), **alone})

    def predictions(self, name: str) -> NDArray[np.int8]:
        """`[N]` int8 by image_id, as published; -1 where an image is missing."""
        if name == OURS:
            (folder,) = (self.folder / "ours" / "runs").glob("*/predictions")
        else:
            folder = self.folder / PEERS[name] / "predictions"
        table = pq.read_table(folder, columns=["image_id", "prediction"])
        assert table.num_rows == self.rows, f"{name}: {table.num_rows} rows of {self.rows}"
        digits = np.full(self.rows, -1, np.int8)
        digits[table["image_id"].to_numpy()] = table["prediction"].to_numpy()
        return digits

    def _ours(self) -> Measured:
        outputs = self.folder / "ours"
        for published in ("runs", "verdicts"):
            shutil.rmtree(outputs / published, ignore_errors=True)
        words = f"run --direct --no-report --workers 2 --dataset bench --run-date {datetime.now(UTC).date()}".split()
        paths = ["--data-dir", str(idx_folder(self.rows)), "--outputs", str(outputs)]
        ours = {key: value for key, value in os.environ.items() if not key.startswith("MNIST_PIPELINE_")}
        return run([sys.executable, "-m", "mnist_pipeline", *words, *paths], ROOT, ours)


def main() -> int:
    """Measure, compare the digits, print the table, write the results; 1 if a digit differs."""
    arguments = _arguments()
    names = [name for name in (OURS, *PEERS) if not arguments.only or name in arguments.only or name == OURS]
    small, large = Bench(arguments.rows, arguments.peers), Bench(arguments.large, arguments.peers)
    figures: dict[str, dict[str, list[Measured]]] = {name: {"small": [], "large": []} for name in names}
    for kind, bench, rounds in (("small", small, arguments.rounds), ("large", large, arguments.large_rounds)):
        if not rounds:
            continue
        list_folder(bench.rows)
        bench.run(OURS)  # builds the shards
        for turn in range(rounds):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                measured = bench.run(name)
                figures[name][kind].append(measured)
                print(f"{bench.rows:>9,} {name:24} {measured.seconds:8.2f} s {measured.tree_mib:8.0f} MiB", flush=True)
    different = {
        name: int(np.count_nonzero(bench.predictions(name) != bench.predictions(OURS)))
        for name in names[1:]
        for kind, bench in (("small", small), ("large", large))
        if figures[name][kind]
    }
    report = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python -m benchmarks.compare", *sys.argv[1:]]),
        "machine": machine(),
        "versions": {"mnist-pipeline": version("mnist-pipeline"), **_versions(arguments.peers)},
        "rows": {"small": small.rows, "large": large.rows},
        "figures": {
            name: {kind: [asdict(each) for each in runs] for kind, runs in figures[name].items()} for name in names
        },
        "digits_that_differ": different,
    }
    print(table(report))
    RESULTS.mkdir(exist_ok=True)
    if arguments.write:
        (RESULTS / "compare.json").write_text(json.dumps(report, indent=1) + "\n")
    return 1 if any(different.values()) else 0


def table(report: dict[str, Any]) -> str:
    """The comparison as Markdown."""
    rows = report["rows"]
    lines = [
        f"{rows['small']:,} images | median | spread | times ours | marginal, images/s | times ours | memory",
        "---|---:|---:|---:|---:|---:|---:",
    ]
    first: tuple[float, float | None] | None = None
    for name, runs in report["figures"].items():
        seconds = [each["seconds"] for each in runs["small"]]
        median, rate = statistics.median(seconds), None
        if runs["large"]:
            more = statistics.median(each["seconds"] for each in runs["large"]) - median
            rate = (rows["large"] - rows["small"]) / more
        first = first or (median, rate)
        slower = f"{first[1] / rate:.1f}" if rate and first[1] else ""
        memory_mib = max(each["tree_mib"] for each in runs["small"] + runs["large"])
        lines.append(
            f"{name} | {median:.2f} s | {min(seconds):.2f}-{max(seconds):.2f} | {median / first[0]:.1f} | "
            f"{f'{rate:,.0f}' if rate else ''} | {slower} | {memory_mib:,.0f} MiB"
        )
    same = (
        "all agree on every digit" if not any(report["digits_that_differ"].values()) else report["digits_that_differ"]
    )
    return "\n".join([*lines, "", f"{same}"])


def _versions(interpreter: Path) -> dict[str, str]:
    program = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {LIBRARIES!r}}}))"
    done = subprocess.run([interpreter, "-c", program], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True, help="Python interpreter that has the peers")
    parser.add_argument("--rows", type=int, default=600_000)
    parser.add_argument("--large", type=int, default=3_000_000, help="rows for the marginal rate")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large-rounds", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=sorted(PEERS), help="these peers only")
    parser.add_argument("--no-write", dest="write", action="store_false", help="leave the results in the repository")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
