"""Compares mnist-pipeline with the libraries in common use: the same rows, the same weights, whole processes.

    python -m benchmarks.compare --peers .venv-bench/bin/python

Each turns shards into a predictions table with all ten probabilities and a summary, with two workers. mnist-pipeline
reads its own shards, built before; the peers read ordinary list-typed ones, and the expert's loop, as it is and tuned,
those of the best list layout too. The order rotates from round to round. In the end all must agree on every digit. Two
figures: the time of the whole process at 600k images, and the marginal rate between 600k and 3M, in which the start-up
time cancels out.

With `--before PATH` another checkout of mnist-pipeline takes part, by the same interpreter and with shards of its own.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.data import FIXED_SIZE_LISTS, LISTS, Layout, bench_folder, idx_folder, shard_folder, weights_file
from benchmarks.measure import Measured, machine, run

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
OURS, BEFORE = "mnist-pipeline", "mnist-pipeline before"
LIBRARIES = ("numpy", "pandas", "pyarrow", "torch", "datasets", "dask", "pyspark", "ray")
# Peers that run in parallel by workers get one BLAS thread per worker, as ours does.
ONE_BLAS_THREAD = {"OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Checkout:
    """mnist-pipeline, from the folder of a checkout."""

    name: str
    folder: Path

    def prepare(self, rows: int) -> None:
        """Build its shards."""
        self.run(rows)

    def run(self, rows: int, memory: bool = True) -> Measured:
        """Run it once; it finds its shards, and no run."""
        outputs = self._outputs(rows)
        for published in ("runs", "verdicts"):
            shutil.rmtree(outputs / published, ignore_errors=True)
        words = f"run --direct --no-report --workers 2 --dataset bench --run-date {datetime.now(UTC).date()}".split()
        paths = ["--data-dir", str(idx_folder(rows)), "--outputs", str(outputs)]
        ours = {key: value for key, value in os.environ.items() if not key.startswith("MNIST_PIPELINE_")}
        environment = {**ours, "PYTHONPATH": str(self.folder)}
        return run([sys.executable, "-m", "mnist_pipeline", *words, *paths], self.folder, environment, memory)

    def predictions(self, rows: int) -> Path:
        """The folder of its predictions."""
        (folder,) = (self._outputs(rows) / "runs").glob("*/predictions")
        return folder

    def _outputs(self, rows: int) -> Path:
        return bench_folder() / f"out-{rows}" / self.name.replace(" ", "-")


@dataclass(frozen=True)
class Peer:
    """A module of `benchmarks.peers`, the layout of its shards, what it adds to the environment, its interpreter."""

    name: str
    module: str
    layout: Layout = LISTS
    environment: Mapping[str, str] = field(default_factory=dict)
    python: Path = Path(sys.executable)

    def prepare(self, rows: int) -> None:
        """Write the shards it reads."""
        shard_folder(self.layout, rows)

    def run(self, rows: int, memory: bool = True) -> Measured:
        """Run it once, with an empty results folder."""
        out = self._out(rows)
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        shards = shard_folder(self.layout, rows)
        words = [self.python, "-m", f"benchmarks.peers.{self.module}", shards, weights_file(), out]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **self.environment}
        return run(list(map(str, words)), ROOT, environment, memory)

    def predictions(self, rows: int) -> Path:
        """The folder of its predictions."""
        return self._out(rows) / "predictions"

    def _out(self, rows: int) -> Path:
        return bench_folder() / f"out-{rows}" / f"{self.module}-{self.layout.name}"


PEERS = (
    Peer("expert's loop, fixed-size lists", "expert_loop", FIXED_SIZE_LISTS),
    Peer("expert's loop, lists", "expert_loop"),
    Peer("tuned loop, fixed-size lists", "tuned_loop", FIXED_SIZE_LISTS),
    Peer("tuned loop, lists", "tuned_loop"),
    Peer("pandas + pyarrow loop", "pandas_loop"),
    Peer("PyTorch DataLoader", "torch_loader"),
    Peer("Hugging Face datasets", "hf_datasets", environment=ONE_BLAS_THREAD),
    Peer("Dask", "dask_frame", environment=ONE_BLAS_THREAD),
    Peer("Spark", "spark_arrow", environment=ONE_BLAS_THREAD),
    Peer("Ray Data", "ray_data", environment=ONE_BLAS_THREAD),
)
NAMES = [peer.name for peer in PEERS]


def main() -> int:
    """Measure, compare the digits, print the table, write the results; 1 if a digit differs."""
    arguments = _arguments()
    ours = Checkout(OURS, ROOT)
    before = [Checkout(BEFORE, arguments.before.resolve())] if arguments.before else []
    peers = [replace(peer, python=arguments.peers) for peer in PEERS if peer.name in (arguments.only or NAMES)]
    tools: list[Checkout | Peer] = [ours, *before, *peers]
    figures: dict[str, dict[str, list[Measured]]] = {
        tool.name: {"small": [], "large": [], "memory": []} for tool in tools
    }
    different = dict.fromkeys([tool.name for tool in tools[1:]], 0)
    sizes = {"small": arguments.rows, "large": arguments.large}
    for kind, rounds in (("small", arguments.rounds), ("large", arguments.large_rounds)):
        if not rounds:
            continue
        rows = sizes[kind]
        for tool in tools:
            tool.prepare(rows)
            measured = tool.run(rows)  # and nobody looks at the memory of the others while they are timed
            figures[tool.name]["memory"].append(measured)
            print(f"{rows:>9,} {tool.name:31} {measured.tree_mib:8.0f} MiB", flush=True)
        for turn in range(rounds):
            for tool in tools[turn % len(tools) :] + tools[: turn % len(tools)]:
                measured = tool.run(rows, memory=False)
                figures[tool.name][kind].append(measured)
                print(f"{rows:>9,} {tool.name:31} {measured.seconds:8.2f} s", flush=True)
        expected = digits(ours, rows)
        for tool in tools[1:]:
            different[tool.name] += int(np.count_nonzero(digits(tool, rows) != expected))
    report = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python -m benchmarks.compare", *sys.argv[1:]]),
        "machine": machine(),
        "versions": {"mnist-pipeline": version("mnist-pipeline"), **_versions(arguments.peers)},
        "rows": sizes,
        "figures": {
            name: {kind: [asdict(each) for each in runs] for kind, runs in by_size.items()}
            for name, by_size in figures.items()
        },
        "digits_that_differ": different,
    }
    print(table(report))
    RESULTS.mkdir(exist_ok=True)
    if arguments.write:
        (RESULTS / "compare.json").write_text(json.dumps(report, indent=1) + "\n")
    return 1 if any(different.values()) else 0


def digits(tool: Checkout | Peer, rows: int) -> NDArray[np.int8]:
    """`[N]` int8 by image_id, as published; -1 where an image is missing."""
    table = pq.read_table(tool.predictions(rows), columns=["image_id", "prediction"])
    assert table.num_rows == rows, f"{tool.name}: {table.num_rows} rows of {rows}"
    found = np.full(rows, -1, np.int8)
    found[table["image_id"].to_numpy()] = table["prediction"].to_numpy()
    return found


def table(report: dict[str, Any]) -> str:
    """The comparison as Markdown."""
    rows = report["rows"]
    lines = [
        f"{rows['small']:,} images | median | spread | times ours | marginal, images/s | marginal, times ours | memory",
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
        slower = f"{first[1] / rate:.2f}" if rate and first[1] else ""
        memory_mib = max(each["tree_mib"] for each in runs["memory"])
        lines.append(
            f"{name} | {median:.2f} s | {min(seconds):.2f}-{max(seconds):.2f} | {median / first[0]:.2f} | "
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
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--large-rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=NAMES, help="these peers only")
    parser.add_argument("--before", type=Path, help="another checkout of mnist-pipeline, to measure beside this one")
    parser.add_argument("--no-write", dest="write", action="store_false", help="leave the results in the repository")
    arguments = parser.parse_args()
    # Without the package there, Python would take the installed one: this checkout again.
    if arguments.before and not (arguments.before / "mnist_pipeline" / "__main__.py").is_file():
        parser.error(f"--before {arguments.before}: expected a checkout of mnist-pipeline, found no package")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
