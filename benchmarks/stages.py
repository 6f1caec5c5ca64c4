"""Times the steps of a run: microseconds per image, and multiples of the forward pass alone.

python -m benchmarks.stages --peers .venv-bench/bin/python
"""

import argparse
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.compare import RESULTS, ROOT
from benchmarks.data import bench_folder, idx_folder, weights_file
from benchmarks.measure import machine, run
from mnist_pipeline import runtime as computing
from mnist_pipeline.core.calibration import Calibration
from mnist_pipeline.core.images import DIGITS
from mnist_pipeline.core.network import BOOK, Workspace, choose, forward
from mnist_pipeline.core.network.forward import multiply
from mnist_pipeline.core.progress import silent
from mnist_pipeline.core.tally import Tally
from mnist_pipeline.datasets import shards
from mnist_pipeline.pipeline import evaluation, inputs, planning
from mnist_pipeline.pipeline.planning import Plan
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.runs.predictions import write_predictions
from mnist_pipeline.runs.staging import StagingDirectory, staging_directory
from mnist_pipeline.settings import load_settings
from tests.engine import clean_environment, running_server

PROFILED_ROWS = 300_000
SIZES = (60_000, 600_000, 6_000_000)
ROUNDS = 5
START_ROUNDS = 15
AT_MOST = {"--help": 2.1, "show latest": 3.8}  # times `import numpy`
EMPTY_FLOW = "from prefect import flow\nempty = flow(lambda: None, name='empty')\nempty()\n"


def main() -> None:
    """Measure everything, print the figures as Markdown and write them to `benchmarks/results/stages.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True, help="Python interpreter that has torch and ONNX Runtime")
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=SIZES, help="rows of the whole runs, whose memory is measured"
    )
    parser.add_argument("--no-write", dest="write", action="store_false", help="leave the results in the repository")
    arguments = parser.parse_args()
    computing.one_blas_thread()
    report = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": computing.versions(),
        "forward_microseconds": forward_alone(arguments.peers),
        "stages": steps_alone(),
        "sizes": {str(rows): whole_run(rows) for rows in arguments.sizes},
        "fixed_seconds": fixed_costs(),
        "start_seconds": start_up(),
    }
    print(table(report))
    if arguments.write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "stages.json").write_text(json.dumps(report, indent=1) + "\n")


def forward_alone(peers: Path) -> dict[str, dict[str, float]]:
    """Microseconds per image of the forward pass in memory, by library and number of workers."""
    words = [str(peers), "-m", "benchmarks.forward", str(weights_file())]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, dict[str, float]] = json.loads(done.stdout)
    return found


def steps_alone() -> dict[str, Any]:
    """Microseconds per image of sharding, verification and prediction, and of each part of prediction."""
    with TemporaryDirectory(dir=bench_folder()) as folder:
        plan = _plan(PROFILED_ROWS, Path(folder), workers=1)
        _build(plan)  # brings the source files into the page cache
        plan.outputs.store.delete(layout.SHARDS)
        found: dict[str, Any] = {"shard": _microseconds(lambda: _build(plan))}
        found["verify"] = _microseconds(lambda: _verify(plan))
        found["predict"] = min(_microseconds(lambda: _predict(plan)) for _ in range(3))
        both = _plan(PROFILED_ROWS, Path(folder), workers=2)
        found["predict by two workers"] = min(_microseconds(lambda: _predict(both)) for _ in range(3))
        found["parts"] = _parts_of_predict(plan, Path(folder))
    return found


def whole_run(rows: int) -> dict[str, float]:
    """A whole `run --direct` with two workers over existing shards: seconds, and memory of its process."""
    outputs = bench_folder() / f"out-{rows}" / "ours"
    words = f"run --direct --no-report --workers 2 --dataset bench --run-date {datetime.now(UTC).date()}".split()
    paths = ["--data-dir", str(idx_folder(rows)), "--outputs", str(outputs)]
    measured = []
    for _ in range(2):  # the first run builds the shards
        for published in ("runs", "verdicts"):
            shutil.rmtree(outputs / published, ignore_errors=True)
        measured.append(run([sys.executable, "-m", "mnist_pipeline", *words, *paths], ROOT, _environment()))
    manifest = json.loads(next(outputs.glob("runs/*/manifest.json")).read_text())
    return {
        "seconds": measured[1].seconds,
        "predict_seconds": manifest["timings_seconds"]["predict"],
        "mib": measured[1].largest_mib,
        "mib_with_sharding": measured[0].largest_mib,
    }


def fixed_costs() -> dict[str, float]:
    """Seconds that do not depend on the number of images, medians of `ROUNDS` whole processes each."""
    python = [sys.executable, "-c"]
    with TemporaryDirectory(dir=bench_folder()) as folder:
        here, count = Path(folder), iter(range(1000))

        def run_nightly_once(*words: str) -> list[str]:
            day = date.fromordinal(date(2020, 1, 1).toordinal() + next(count))
            outputs = ["--outputs", str(here / "outputs")]
            return [
                sys.executable,
                "-m",
                "mnist_pipeline",
                "run",
                "--no-report",
                "--run-date",
                str(day),
                *outputs,
                *words,
            ]

        environment = clean_environment(here)
        with running_server(environment) as address:
            environment = environment | {"PREFECT_API_URL": address}
            kinds: dict[str, Callable[[], list[str]]] = {
                "import numpy": lambda: [*python, "import numpy"],
                "import numpy, mnist_pipeline": lambda: [*python, "import numpy, mnist_pipeline"],
                "run --direct, 10k images": lambda: run_nightly_once("--direct"),
                "run with Prefect, 10k images": lambda: run_nightly_once(),
                "an empty Prefect flow": lambda: [*python, EMPTY_FLOW],
            }
            seconds: dict[str, list[float]] = {name: [] for name in kinds}
            for _ in range(ROUNDS + 1):
                for name, words in kinds.items():
                    begun = time.perf_counter()
                    subprocess.run(words(), cwd=here, env=environment, capture_output=True, check=True)
                    seconds[name].append(time.perf_counter() - begun)
    return {
        name: round(statistics.median(runs[1:]), 3) for name, runs in seconds.items()
    }  # the first round only warms up


def start_up() -> dict[str, float]:
    """Seconds of commands that only look, beside `import numpy`: medians of whole processes, in turn."""
    with TemporaryDirectory() as folder:
        environment = _environment() | {"MNIST_PIPELINE_OUTPUTS": f"{folder}/outputs"}
        command = str(Path(sys.executable).with_name("mnist-pipeline"))
        kinds = {"import numpy": [sys.executable, "-c", "import numpy"]}
        kinds |= {name: [command, *name.split()] for name in AT_MOST}
        subprocess.run([command, "run", "--direct", "--no-report"], env=environment, capture_output=True, check=True)
        seconds: dict[str, list[float]] = {name: [] for name in kinds}
        for _ in range(START_ROUNDS + 1):
            for name, words in kinds.items():
                begun = time.perf_counter()
                subprocess.run(words, env=environment, capture_output=True, check=True)
                seconds[name].append(time.perf_counter() - begun)
    return {name: round(statistics.median(runs[1:]), 4) for name, runs in seconds.items()}


def table(report: dict[str, Any]) -> str:
    """The figures as Markdown."""
    forwards = dict(report["forward_microseconds"])
    alone = forwards.pop(str(BOOK))
    lines = ["forward pass in memory | 1 worker, us/image | 2 workers, us/image", "---|---:|---:"]
    lines += [f"{name} | {each['1']:.2f} | {each['2']:.2f}" for name, each in alone.items()]
    lines += [
        "",
        "other networks, 1 worker | ours, us/image | plain in-place NumPy | ratio",
        "---|---:|---:|---:",
    ]
    for name, each in forwards.items():
        own, plain = (passes["1"] for passes in each.values())
        lines.append(f"{name} | {own:.2f} | {plain:.2f} | {own / plain:.2f}")
    measured, ours = report["stages"], alone["ours"]
    lines += ["", "step | us/image | times the forward pass", "---|---:|---:"]
    for name in ("shard", "verify", "predict"):
        lines.append(f"{name}, 1 worker | {measured[name]:.2f} | {measured[name] / ours['1']:.2f}")
    both = measured["predict by two workers"]
    lines.append(f"predict, 2 workers | {both:.2f} | {both / ours['2']:.2f}")
    lines += ["", "part of predict, 1 worker | us/image | share", "---|---:|---:"]
    known = measured["parts"]
    for name, value in {**known, "other": measured["predict"] - sum(known.values())}.items():
        lines.append(f"{name} | {value:.2f} | {value / measured['predict']:.0%}")
    lines += [
        "",
        "whole run, 2 workers | seconds | us/image of predict | MiB | MiB while it builds shards",
        "---|---:|---:|---:|---:",
    ]
    for rows, each in report["sizes"].items():
        per_image = each["predict_seconds"] / int(rows) * 1e6
        memory_mib = f"{each['mib']:.0f} | {each['mib_with_sharding']:.0f}"
        lines.append(f"{int(rows):,} | {each['seconds']:.2f} | {per_image:.2f} | {memory_mib}")
    lines += ["", "fixed cost | seconds", "---|---:"]
    lines += [f"{name} | {seconds:.2f}" for name, seconds in report["fixed_seconds"].items()]
    started = report["start_seconds"]
    lines += ["", "start-up | seconds | times `import numpy` | wanted at most", "---|---:|---:|---:"]
    for name, seconds in started.items():
        ratio, wanted = seconds / started["import numpy"], AT_MOST.get(name, 1)
        lines.append(f"{name} | {seconds:.3f} | {ratio:.2f} | {wanted:.1f}{' (not reached)' * (ratio > wanted)}")
    return "\n".join(lines)


def _parts_of_predict(plan: Plan, folder: Path) -> dict[str, float]:
    """Microseconds per image of each part of prediction, measured within it where possible."""
    network = plan.outputs.load_weights(plan.identity.weights_sha256)
    workspace = Workspace(network, plan.identity.batch_rows, computing.kernels())
    spent: dict[str, float] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        spent[name] = spent.get(name, 0.0) + time.perf_counter() - begun

    checkpoints = StagingDirectory(Outputs.at(folder), "parts").checkpoints
    for group in plan.groups:
        for shard in group.shards:
            rows, done = shard.range.rows, 0
            probabilities = np.empty((DIGITS, rows), np.float32)
            with timed("read and verify"):
                file = shards.open_shard(plan.shard_set, shard)
                assert file is not None, "it was written a moment ago"
            with timed("decode"):
                images = shards.read_shard_labels(file)
                batches = shards.read_batches(file, workspace.batch_rows)
                batch = next(batches, None)
            while batch is not None:
                out = probabilities[:, done : done + len(batch)]
                done += len(batch)
                with timed("forward"):
                    forward(workspace, batch, out=out)
                with timed("matmul"):
                    _products(workspace, batch, out)
                with timed("decode"):
                    batch = next(batches, None)
            with timed("choose and count"):
                predictions, confidence = choose(probabilities)
                Tally.count(images.labels, predictions, confidence)
                Calibration.count(images.labels, predictions, confidence, probabilities)
            with timed("encode and write"):
                versions = computing.versions()
                write_predictions(checkpoints, shard, plan.identity, images, probabilities, versions)
    spent["activation"] = spent.pop("forward") - spent["matmul"]
    spent["encode and write"] -= spent["choose and count"]  # `write_predictions` repeats both
    order = ("read and verify", "decode", "matmul", "activation", "choose and count", "encode and write")
    return {name: spent[name] / plan.identity.images * 1e6 for name in order}


def _products(workspace: Workspace, batch: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """The matrix products of the forward pass, and nothing else."""
    values = batch
    for layer in workspace.hidden:
        sums = layer.sums[: len(batch)]
        multiply(values, layer.weights, layer.tile_rows, out=sums)
        values = sums
    np.matmul(workspace.last_weights, values.T, out=out)


def _plan(rows: int, outputs: Path, workers: int) -> Plan:
    settings = load_settings(
        dataset="bench", split="test", data_dir=idx_folder(rows), outputs=outputs / "outputs", workers=workers
    )
    return planning.make_plan(settings, inputs.fetch(settings))


def _build(plan: Plan) -> int:
    evaluation.over_groups(plan, "shards", plan.build_groups, functools.partial(evaluation.build_shards, plan), silent)
    return plan.identity.images


def _verify(plan: Plan) -> int:
    """Read every shard and check it against its record, as prediction does before it decodes one."""
    for group in plan.groups:
        for shard in group.shards:
            assert plan.shard_set.find(shard.file_name) is not None, "it was written a moment ago"
    return plan.identity.images


def _predict(plan: Plan) -> int:
    with staging_directory(plan.outputs, plan.run_id) as staging:
        predict = functools.partial(evaluation.predict_shards, plan, staging)
        evaluation.over_groups(plan, "predictions", plan.groups, predict, silent)
    return plan.identity.images


def _microseconds(work: Callable[[], int]) -> float:
    begun = time.perf_counter()
    images = work()
    return (time.perf_counter() - begun) / images * 1e6


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("MNIST_PIPELINE_")}


if __name__ == "__main__":
    main()
