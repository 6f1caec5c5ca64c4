"""Reads the same images in each form, beside what reads that form elsewhere: images a second, one core each.

python -m benchmarks.forms --peers .venv-bench/bin/python

Read means: every image decoded into float32 of 0..1, in batches, and its label. For ours also what a run does before
that, hashing every byte, and sharded: what it does once for new images, up to the shards on disk.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.compare import RESULTS, ROOT
from benchmarks.data import bench_folder, train_images
from benchmarks.measure import machine
from mnist_pipeline import runtime as computing
from mnist_pipeline.core.plan import cut
from mnist_pipeline.core.progress import silent
from mnist_pipeline.pipeline import evaluation, inputs, planning
from mnist_pipeline.settings import Settings, load_settings
from tests.forms import FORMS, Given

ROWS = 60_000
ROUNDS = 3
BATCH_ROWS = 1000
PEERS = ("pandas", "Hugging Face datasets", "torchvision", "NumPy")


def main() -> None:
    """Measure every form, print the figures as Markdown and write them to `benchmarks/results/forms.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True, help="Python interpreter that has the other libraries")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--no-write", dest="write", action="store_false", help="leave the results in the repository")
    arguments = parser.parse_args()
    computing.one_blas_thread()
    rates = {name: _rates(name, arguments.rows, arguments.peers) for name in FORMS}
    report = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": computing.versions(),
        "rows": arguments.rows,
        "images_per_second": rates,
    }
    print(table(report))
    if arguments.write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "forms.json").write_text(json.dumps(report, indent=1) + "\n")


def form(name: str, rows: int) -> Given:
    """Training images in a form, written once; the settings that name them."""
    folder = bench_folder() / f"form-{rows}" / name.replace(" ", "-")
    done = folder.with_name(f"{folder.name}.json")
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        images, labels = train_images()
        given = FORMS[name](folder, images[:rows], labels[:rows])
        done.write_text(json.dumps(given, default=str))
    found: Given = json.loads(done.read_text())
    return found


def table(report: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [f"form | read | sharded | {' | '.join(PEERS)}", f"---|{'---:|' * (len(PEERS) + 2)}"]
    for name, rates in report["images_per_second"].items():
        cells = [f"{rates[key]:,}" if key in rates else "" for key in ("read", "sharded", *PEERS)]
        lines.append(" | ".join([name, *cells]))
    return "\n".join(lines)


def _rates(name: str, rows: int, peers: Path) -> dict[str, int]:
    given = form(name, rows)
    with TemporaryDirectory(dir=bench_folder()) as folder:
        settings = load_settings(
            run_date=datetime.now(UTC).date(),
            outputs=Path(folder) / "outputs",
            cache=Path(folder) / "cache",
            workers=1,
            **{"dataset": "bench", **given},
        )
        found = {"read": _rate(rows, lambda: _read(settings)), "sharded": _rate(rows, lambda: _shard(settings))}
    words = [str(peers), "-m", "benchmarks.peers.forms", name, str(rows), json.dumps(given), str(ROUNDS)]
    one_core = {"OMP_NUM_THREADS": "1", "ARROW_NUM_THREADS": "1"}
    environment = {**os.environ, **one_core, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}: the peers ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return {**found, **json.loads(done.stdout.splitlines()[-1])}


def _read(settings: Settings) -> None:
    split = inputs.open_images(settings)
    assert sum(len(images.pixels) for images in split.read(cut(split.rows, BATCH_ROWS))) == split.rows


def _shard(settings: Settings) -> None:
    shutil.rmtree(settings.outputs, ignore_errors=True)
    plan = planning.make_plan(settings, inputs.open_images(settings))
    evaluation.over_groups(
        plan, "shards", plan.build_groups, lambda group: evaluation.build_shards(plan, group), silent
    )


def _rate(rows: int, work: Callable[[], None]) -> int:
    seconds = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return round(rows / statistics.median(seconds))


if __name__ == "__main__":
    main()
