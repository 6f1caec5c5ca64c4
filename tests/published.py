"""Small runs for tests, staged and published without a data set or a network: predictions are drawn from a seed."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mnist_pipeline.core.plan import plan_shards
from mnist_pipeline.storage import parts, runs, tables
from mnist_pipeline.storage.manifest import Identity, Manifest, Totals
from mnist_pipeline.storage.shards import ShardLabels
from mnist_pipeline.storage.staging import Stage, claim_stage
from mnist_pipeline.storage.views import update_views

MADE_WITH = {"numpy": "0"}


def identity(run_date: str = "2026-01-31", **changes: Any) -> Identity:
    """Who a run of 12 images in shards of 5 is."""
    fields: dict[str, Any] = {
        "run_date": date.fromisoformat(run_date),
        "dataset": "toy",
        "split": "test",
        "images": 12,
        "images_sha256": "1" * 64,
        "labels_sha256": "2" * 64,
        "weights_sha256": "3" * 64,
        "transform_version": "4",
        "schema_version": tables.SCHEMA_VERSION,
        "batch_rows": 4,
        "shard_rows": 5,
    }
    return Identity(**(fields | changes))


def stage_run(
    stage: Stage, who: Identity, *, seed: int = 0, published_at: datetime = datetime(2026, 2, 1, tzinfo=UTC)
) -> Manifest:
    """Write all files of a run but the manifest; the digits follow from `seed` alone."""
    random = np.random.default_rng(seed)
    pieces = []
    for shard in plan_shards(who.images, who.shard_rows):
        ids = np.arange(shard.range.start, shard.range.stop, dtype=np.int64)
        labels = None if who.labels_sha256 is None else (ids % 10).astype(np.int8)
        probabilities = random.dirichlet(np.ones(10), shard.range.rows).T.astype(np.float32)
        images = ShardLabels(ids, labels)
        pieces.append(parts.write_part(stage.parts, shard, who.run_id, who.run_date, images, probabilities, MADE_WITH))
    tally = parts.tally_of(pieces)
    summary = tables.build(
        tables.SUMMARY,
        {
            "run_id": tables.constant(who.run_id, tables.RUN_ID, 10),
            "run_date": tables.constant(who.run_date, tables.RUN_DATE, 10),
            "dataset": [who.dataset] * 10,
            "split": [who.split] * 10,
            **{
                column.name: [getattr(score, column.name) for score in tally.scores()]
                for column in tables.SUMMARY.columns[4:]
            },
        },
    )
    cells = [(label, digit, int(tally.confusion[label, digit])) for label in range(10) for digit in range(10)]
    confusion = tables.CONFUSION.schema.empty_table().from_pylist(
        [dict(zip(("label", "prediction", "count"), cell, strict=True)) for cell in cells], tables.CONFUSION.schema
    )
    files = [piece.file for piece in pieces]
    files += [runs.stage_table(stage, tables.SUMMARY, summary), runs.stage_table(stage, tables.CONFUSION, confusion)]
    return Manifest(
        schema_version=tables.SCHEMA_VERSION,
        run_id=who.run_id,
        fingerprint=who.fingerprint,
        identity=who,
        totals=Totals(images=tally.images, labelled=tally.labelled, correct=tally.correct, accuracy=tally.accuracy),
        versions=MADE_WITH,
        engine="direct",
        workers=1,
        evaluated_at=datetime(2026, 2, 1, tzinfo=UTC),
        published_at=published_at,
        timings_seconds={"publish": 0.25},
        files=tuple(files),
    )


@contextmanager
def staged(outputs: Path, who: Identity, **how: Any) -> Iterator[tuple[Stage, Manifest]]:
    """A staging folder with a whole run in it, ready to be committed."""
    with claim_stage(outputs, who.run_id) as stage:
        yield stage, stage_run(stage, who, **how)


def publish_run(outputs: Path, who: Identity, *, views: bool = True, **how: Any) -> runs.Run:
    """Publish a run of drawn predictions, and with `views` bring the views up to it."""
    with staged(outputs, who, **how) as (stage, manifest):
        assert runs.commit(outputs, stage, manifest)
    if views:
        update_views(outputs)
    return runs.find_run(outputs, who.run_id, who.dataset, who.split)


def snapshot(folder: Path) -> dict[str, tuple[str, int]]:
    """Sha256 and time of change of every file below `folder`: equal if nothing was touched."""
    return {
        path.relative_to(folder).as_posix(): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def hashes(folder: Path) -> dict[str, str]:
    """Sha256 of every file below `folder`."""
    return {name: digest for name, (digest, _) in snapshot(folder).items()}


def left_over(outputs: Path) -> list[str]:
    """Whatever lies in the staging folder, and whatever lies among Parquet files and is none."""
    staging = [path.name for path in (outputs / ".staging").iterdir()] if (outputs / ".staging").is_dir() else []
    stray = [
        str(path)
        for folder in (*outputs.glob("runs/*/predictions"), *outputs.glob("shards/*/images"))
        for path in folder.iterdir()
        if path.suffix != ".parquet" or path.name.startswith(".")
    ]
    return staging + stray


def flip_bit(path: Path, position: int | None = None) -> None:
    """Change one bit of a file, in its middle if no position is given, and leave its times alone."""
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if position is None else position] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a table as dictionaries, for comparing."""
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
