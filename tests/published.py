"""Small runs for tests, staged and published without a data set or a network: predictions are drawn from a seed."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnist_pipeline import tables
from mnist_pipeline.core.gates import Outcome
from mnist_pipeline.core.images import NO_LABEL, SIDE, flatten
from mnist_pipeline.core.network import Network
from mnist_pipeline.core.plan import plan_shards
from mnist_pipeline.datasets.image_bins import ImageBins
from mnist_pipeline.datasets.shards import ShardLabels, shard_set_name
from mnist_pipeline.errors import DamagedError, RunNotFoundError
from mnist_pipeline.runs import layout, lookup, predictions, publishing, summary
from mnist_pipeline.runs.counting import record_counted
from mnist_pipeline.runs.manifest import Identity, Manifest, Pruned, Totals
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.runs.run import Run
from mnist_pipeline.runs.staging import StagingDirectory, staging_directory
from mnist_pipeline.store.base import Location
from mnist_pipeline.verdicts import records
from mnist_pipeline.verdicts.promotions import Promotion, record_promotion
from mnist_pipeline.views import update_views
from tests.processes import start_together

MADE_WITH = {"numpy": "0"}
# Those of a run of `identity()`.
FILES = [
    "predictions/part-00000.parquet",
    "predictions/part-00001.parquet",
    "predictions/part-00002.parquet",
    "summary.parquet",
    "confusion.parquet",
    "reliability.parquet",
    "inputs.parquet",
]


def opened(outputs: Location | Outputs) -> Outputs:
    """The outputs folder at a location, or the one given."""
    return outputs if isinstance(outputs, Outputs) else Outputs.at(outputs)


def at(day: int) -> datetime:
    """A moment of February 2026."""
    return datetime(2026, 2, day, tzinfo=UTC)


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


def bins_of_like_images(images: int) -> ImageBins:
    """The bins of so many images that have the same bar of ink, 2 pixels wide and 10 high, in the middle."""
    image = np.zeros((1, SIDE, SIDE), np.float32)
    image[:, 9:19, 13:15] = 1
    return ImageBins(*(images * found for _, found in ImageBins.count(flatten(image)).arrays()))


def stage_run(
    staging: StagingDirectory,
    who: Identity,
    *,
    seed: int = 0,
    published_at: datetime = datetime(2026, 2, 1, tzinfo=UTC),
    labels_of: NDArray[np.int8] | None = None,
    first_id: int = 0,
) -> Manifest:
    """Write all files of a run but the manifest; the digits follow from `seed` alone.

    The label of an image is its number modulo 10, or what `labels_of` says, which may be NO_LABEL. Numbers start at
    `first_id`.
    """
    random = np.random.default_rng(seed)
    checkpoints = []
    for shard in plan_shards(who.images, who.shard_rows):
        ids = np.arange(shard.range.start, shard.range.stop, dtype=np.int64)
        every = np.arange(who.images) % 10 if labels_of is None else labels_of
        labels = (every[ids] if who.labels_sha256 else np.full(len(ids), NO_LABEL)).astype(np.int8)
        probabilities = random.dirichlet(np.ones(10), shard.range.rows).T.astype(np.float32)
        images = ShardLabels(ids + first_id, labels)
        checkpoints.append(
            predictions.write_predictions(staging.checkpoints, shard, who, images, probabilities, MADE_WITH)
        )
    tally, calibration = predictions.counted_of(checkpoints)
    files = [checkpoint.file for checkpoint in checkpoints]
    for table, data in summary.tables_of(who, tally, calibration, bins_of_like_images(who.images)):
        files.append(publishing.write_table(staging, table, data))
    return Manifest(
        schema_version=tables.SCHEMA_VERSION,
        run_id=who.run_id,
        fingerprint=who.fingerprint,
        identity=who,
        totals=Totals.of(tally, calibration),
        versions=MADE_WITH,
        engine="direct",
        workers=1,
        evaluated_at=datetime(2026, 2, 1, tzinfo=UTC),
        published_at=published_at,
        timings_seconds={"publish": 0.25},
        files=tuple(files),
        shard_set=shard_set_name(who, who.shard_rows),
        tally=tally.to_json(),
        calibration=calibration.to_json(),
    )


@contextmanager
def staged(outputs: Location | Outputs, who: Identity, **how: Any) -> Iterator[tuple[StagingDirectory, Manifest]]:
    """A staging directory with a whole run in it, ready to be committed."""
    with staging_directory(opened(outputs), who.run_id) as staging:
        yield staging, stage_run(staging, who, **how)


def publish_run(
    outputs: Location | Outputs, who: Identity, *, views: bool = True, counts: bool = True, **how: Any
) -> Run:
    """Publish a run of drawn predictions that counts or not, and with `views` bring the views up to it."""
    with staged(outputs, who, **how) as (staging, manifest):
        assert publishing.commit(opened(outputs), staging, manifest)
    if counts:
        record_counted(opened(outputs), who.run_id, manifest.published_at)
    if views:
        update_views(opened(outputs))
    return lookup.run_by_id(opened(outputs), who.run_id)


def publish_with_others(outputs: Location, run_date: str, published_at: datetime) -> bool:
    """Publish a run at the same moment as other processes of `run_at_once` do theirs; whether it was new."""
    with staged(outputs, identity(run_date), published_at=published_at) as (staging, manifest):
        start_together()
        new = publishing.commit(opened(outputs), staging, manifest)
        record_counted(opened(outputs), manifest.run_id, published_at)
    update_views(opened(outputs))
    return new


def flip_rows(run_id: str, name: str, first: int, rows: int) -> pa.Table:
    """Rows of the table of flips of a verdict, by image from `first` on; every third image was lost."""
    ids = np.arange(first, first + rows, dtype=np.int64)
    constants = {
        "run_id": run_id,
        "run_date": date(2026, 1, 31),
        "dataset": "toy",
        "split": "test",
        "verdict_id": name,
        "against": "baseline",
        "reference_run_id": f"reference-{first}",
    }
    columns = {
        **tables.constants(tables.FLIPS, constants, rows),
        "image_id": ids,
        "image_key": pa.nulls(rows, pa.string()),
        "label": (ids % 10).astype(np.int8),
        "before": ((ids + ids % 3) % 10).astype(np.int8),
        "now": ((ids + 3) % 10).astype(np.int8),
        "confidence_before": (ids % 7 / 8).astype(np.float32),
        "confidence_now": (ids % 9 / 16).astype(np.float32),
        "direction": pa.array([("lost", "still wrong")[int(place % 3 > 0)] for place in ids], tables.DIRECTION),
    }
    return tables.build(tables.FLIPS, columns)


def gate_rows(run_id: str, name: str, outcome: Outcome) -> pa.Table:
    """The gates of a verdict: one, which came out so; none of them if nothing was judged."""
    given = {"run_id": run_id, "run_date": datetime(2026, 1, 31), "dataset": "toy", "split": "test", "verdict_id": name}
    row = (
        given | {"gate": "min_images"} | {"outcome": outcome, "bound": 1.0, "confidence": 0.998, "reason": "for a test"}
    )
    rows = [] if outcome == "none" else [{column.name: row.get(column.name) for column in tables.GATES.columns}]
    return pa.Table.from_pylist(rows, tables.GATES.schema)


def verdict_document(
    staged: records.StagedVerdict,
    run_id: str,
    name: str,
    outcome: Outcome = "pass",
    run_sha256: str = "0" * 64,
    judged_at: datetime = datetime(2026, 2, 2, tzinfo=UTC),
    references: Sequence[records.ReferenceRecord] = (),
) -> records.VerdictDocument:
    """What a verdict says, against nothing if no references are given, by gates of which only the first is on."""
    return records.VerdictDocument(
        schema_version=tables.SCHEMA_VERSION,
        verdict_id=name,
        run_id=run_id,
        run_sha256=run_sha256,
        outcome=outcome,
        notes=("compared with nothing",),
        references=tuple(references),
        gates={"alpha": 0.001, "min_images": None, "digit_accuracy": {"3": 0.9}},
        versions=MADE_WITH,
        judged_at=judged_at,
        files=tuple(staged.files),
    )


def compared_with(changed: int | None) -> records.ReferenceRecord:
    """What a verdict says of a reference with so many changed predictions, or with other images."""
    return records.ReferenceRecord(
        against="baseline",
        run_id="reference",
        sha256=None,
        problem=None,
        same_images=changed is not None,
        same_weights=True,
        changed=changed,
    )


def publish_verdict(
    outputs: Location | Outputs,
    run_id: str,
    name: str = "0" * 12,
    *,
    flips: Sequence[pa.Table] = (),
    views: bool = False,
    **how: Any,
) -> records.PublishedVerdict:
    """Publish a verdict with empty tables but for `flips`; `how` goes into its document. The run need not be there."""
    with suppress(RunNotFoundError, DamagedError):
        how.setdefault("run_sha256", lookup.run_by_id(opened(outputs), run_id).manifest().content.sha256)
    with records.staged_verdict(opened(outputs), run_id, name) as staged:
        with staged.writer(tables.FLIPS) as writer:
            for rows in flips:
                writer.append(rows)
        staged.add(tables.COMPARISON, tables.COMPARISON.schema.empty_table())
        staged.add(tables.GATES, gate_rows(run_id, name, how.get("outcome", "pass")))
        published = records.commit_verdict(opened(outputs), staged, verdict_document(staged, run_id, name, **how))
    if views:
        update_views(opened(outputs))
    return published


def promote_to(outputs: Location | Outputs, network: Network) -> None:
    """Make weights the current ones without a look at them."""
    promotion = Promotion(
        schema_version=tables.SCHEMA_VERSION,
        weights_sha256=opened(outputs).archive_weights(network).stem,
        previous_sha256="0" * 64,
        architecture=str(network.architecture),
        run_id="none",
        verdict_id="none",
        outcome="pass",
        forced=True,
        promoted_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    record_promotion(opened(outputs), promotion)


def give_up(outputs: Location | Outputs, run_id: str) -> None:
    """Say of a run what `mnist-pipeline prune` says first: that its predictions are given up."""
    record = Pruned(schema_version=tables.SCHEMA_VERSION, run_id=run_id, pruned_at=datetime(2026, 2, 2, tzinfo=UTC))
    opened(outputs).store.write(f"{layout.run_folder(run_id)}/{layout.PRUNED}", record.to_bytes())


def on_disk(place: Location) -> Path:
    """The folder or file, which in this test is on disk."""
    assert isinstance(place, Path)
    return place


def snapshot(folder: Location) -> dict[str, tuple[str, int]]:
    """Sha256 and time of change of every file below `folder`: equal if nothing was touched."""
    folder = on_disk(folder)
    return {
        path.relative_to(folder).as_posix(): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def hashes(folder: Location) -> dict[str, str]:
    """Sha256 of every file below `folder`."""
    return {name: digest for name, (digest, _) in snapshot(folder).items()}


def left_over(outputs: Location) -> list[str]:
    """Whatever lies in the staging folder, and whatever lies among Parquet files and is none."""
    outputs = on_disk(outputs)
    staging = [path.name for path in (outputs / ".staging").iterdir()] if (outputs / ".staging").is_dir() else []
    stray = [
        str(path)
        for folder in (*outputs.glob("runs/*/predictions"), *outputs.glob("shards/*/images"))
        for path in folder.iterdir()
        if path.suffix != ".parquet" or path.name.startswith(".")
    ]
    return staging + stray


def flip_bit(path: Location, position: int | None = None) -> None:
    """Change one bit of a file, in its middle if no position is given, and leave its times alone."""
    path = on_disk(path)
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if position is None else position] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a table as dictionaries, for comparing."""
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
