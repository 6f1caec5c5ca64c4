"""Makes `outputs-VERSION.tar.xz`: an outputs folder, on disk and in a bucket, as this schema version publishes it.

`python -m tests.golden.outputs` writes that of this version anew: only where what is published has changed on purpose,
with a word about readers of what older versions have published in CHANGELOG.md. Those of older versions stay as their
versions made them. `tests/test_golden_outputs.py` reads all.
"""

import io
import json
import os
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal
from unittest import mock

import numpy as np

from mnist_pipeline import load_run, tables
from mnist_pipeline.core import idx
from mnist_pipeline.core.images import flatten, normalise
from mnist_pipeline.core.network import BOOK, Network, predict
from mnist_pipeline.core.retention import Retention
from mnist_pipeline.maintenance.pruning import carry_out, plan_prune
from mnist_pipeline.pipeline.decisions import decide
from mnist_pipeline.pipeline.nightly import run_nightly
from mnist_pipeline.runs.lookup import run_by_id
from mnist_pipeline.settings import load_settings
from mnist_pipeline.store.base import Location
from mnist_pipeline.verdicts.baselines import set_baseline
from mnist_pipeline.weights.files import encode_weights, load_weights
from tests.builders import images_name, labels_name
from tests.objectstore import running_store
from tests.published import opened, promote_to

ARCHIVES = Path(__file__).parent
ROWS = 60
GOOD, BAD = 1, 7  # seeds of networks that give many digits
NOT_PUBLISHED = {".staging"}
STANDINGS: tuple[Literal["accepted", "withdrawn"], ...] = ("withdrawn", "accepted")


def network(seed: int) -> Network:
    """A network of few different weights, so that many of them take little room, and of all digits in its answers."""
    random = np.random.default_rng(seed)
    steps = {name: random.integers(-2, 3, shape) for name, shape in BOOK.shapes.items()}
    return Network({name: (values / 2).astype(np.float32) for name, values in steps.items()})


def make_data(folder: Path) -> None:
    """Dark images, with labels by the first network but for each tenth; and the same images without labels."""
    random = np.random.default_rng(0)
    ink = random.random((ROWS, 28, 28)) < 0.1
    images = (ink * random.integers(1, 256, ink.shape)).astype(np.uint8)
    labels = predict(network(GOOD), flatten(normalise(images))).argmax(axis=1).astype(np.uint8)
    labels[::10] = (labels[::10] + 1) % 10
    for name in ("labelled", "plain"):
        (folder / name).mkdir()
        (folder / name / images_name()).write_bytes(idx.encode(images))
    (folder / "labelled" / labels_name()).write_bytes(idx.encode(labels))


def publish(folder: Path, outputs: Location) -> list[dict[str, Any]]:
    """A night of each outcome, one of them pruned, a baseline, a promotion and decisions; what is read of each run."""
    expected: list[dict[str, Any]] = []
    nights = [("toy", "2026-01-01", GOOD), ("toy", "2026-01-02", GOOD), ("toy", "2026-01-03", BAD)]
    nights += [("plain", "2026-01-03", BAD)]
    for dataset, run_date, seed in nights:
        weights = folder / f"{seed}.safetensors"
        weights.write_bytes(encode_weights(network(seed)))
        data = folder / ("labelled" if dataset == "toy" else "plain")
        where: dict[str, Any] = {"data_dir": data, "cache": folder / "cache", "outputs": outputs, "weights": weights}
        given = {"dataset": dataset, "run_date": run_date, "shard_rows": 20, "workers": 1, **where}
        by_hand = dataset == "plain"
        judged = run_nightly(load_settings(configured={} if by_hand else given, **given))
        run_id = judged.published.run_id
        expected.append(
            {
                "run_id": run_id,
                "outcome": judged.verdict.outcome,
                "correct": judged.published.totals.correct,
                "counts": not by_hand,
                "predictions": "".join(map(str, load_run(run_id, outputs=str(outputs))["prediction"])),
            }
        )
    set_baseline(opened(outputs), "toy", "test", expected[1]["run_id"])
    failed = run_by_id(opened(outputs), expected[2]["run_id"])
    for standing in STANDINGS:
        decide(opened(outputs), failed, standing, "to try what readers make of it")
    promote_to(outputs, load_weights(folder / f"{GOOD}.safetensors"))
    for days in (100, 102):
        now = datetime.now(UTC) + timedelta(days)
        carry_out(
            opened(outputs),
            plan_prune(opened(outputs), Retention(keep_days=1, keep_last=1), timedelta(days=1), now),
            now,
        )
    expected[0]["predictions"] = None  # given up
    return expected


def files_of(outputs: Location) -> dict[str, bytes]:
    """Everything that is published there, by its path."""
    store = opened(outputs).store
    names = sorted(each.name for each in store.list("") if each.name.split("/")[0] not in NOT_PUBLISHED)
    return {name: store.read(name) for name in names}


def main() -> None:
    """Publish the same on disk and in a bucket, and pack both."""
    contents: dict[str, bytes] = {}
    with TemporaryDirectory() as name, running_store() as store, mock.patch.dict(os.environ, store.variables):
        folder = Path(name)
        make_data(folder)
        places: dict[str, Location] = {"disk": folder / "outputs", "bucket": store.bucket()}
        for layout, outputs in places.items():
            expected = publish(folder, outputs)
            contents |= {f"{layout}/{path}": data for path, data in files_of(outputs).items()}
            contents[f"{layout}.json"] = json.dumps(expected, indent=1).encode()
    with tarfile.open(ARCHIVES / f"outputs-{tables.SCHEMA_VERSION}.tar.xz", "w:xz", preset=9) as archive:
        for path, data in sorted(contents.items()):
            about = tarfile.TarInfo(path)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))


if __name__ == "__main__":
    main()
