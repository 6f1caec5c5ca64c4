import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_pipeline import tables
from mnist_pipeline.core.comparison import Pairs
from mnist_pipeline.core.images import NO_LABEL
from mnist_pipeline.errors import DamagedError
from mnist_pipeline.runs.run import Run
from mnist_pipeline.verdicts.alignment import AlignedChunk, align
from tests.published import flip_bit, identity, publish_run

CONSTANTS = {
    "run_id": "now",
    "run_date": date(2026, 1, 31),
    "dataset": "toy",
    "split": "test",
    "verdict_id": "0" * 12,
    "against": "baseline",
    "reference_run_id": "before",
}


def two_runs(
    outputs: Path,
    shards: tuple[int, int] = (5, 4),
    images: tuple[int, int] = (12, 12),
    labelled: bool = True,
    **of_now: Any,
) -> tuple[Run, Run]:
    """Two runs that say they are over the same images, whatever is in them."""
    changes: dict[str, Any] = {} if labelled else {"labels_sha256": None}
    before = identity("2026-01-30", images=images[0], shard_rows=shards[0], **changes)
    now = identity(images=images[1], shard_rows=shards[1], **(changes | of_now.pop("who", {})))
    return (
        publish_run(outputs, before, seed=0, views=False),
        publish_run(outputs, now, **{"seed": 1, "views": False, **of_now}),
    )


def flips_of(chunks: Sequence[AlignedChunk]) -> list[dict[str, Any]]:
    return [row for chunk in chunks for row in chunk.flips(CONSTANTS).to_pylist()]


def judged(before: Run, now: Run) -> pd.DataFrame:
    """The flips, the naive way: both runs read whole, joined by image."""
    columns = ["image_id", "label", "prediction", "confidence"]
    old, new = (pd.read_parquet(run.folder / "predictions", columns=columns) for run in (before, now))
    both = old.merge(new, on="image_id", suffixes=("_before", "_now"), validate="1:1")
    both = both[both["prediction_before"] != both["prediction_now"]].sort_values("image_id")

    def direction(row: "pd.Series[Any]") -> str | None:
        if pd.isna([row["label_now"], row["label_before"]]).any() or row["label_now"] != row["label_before"]:
            return None
        if row["prediction_before"] == row["label_now"]:
            return "lost"
        return "gained" if row["prediction_now"] == row["label_now"] else "still wrong"

    return pd.DataFrame(
        {
            "image_id": both["image_id"],
            "image_key": pd.Series([None] * len(both), both.index, object),
            "label": both["label_now"].astype(object).where(both["label_now"].notna(), None),
            "before": both["prediction_before"],
            "now": both["prediction_now"],
            "confidence_before": both["confidence_before"],
            "confidence_now": both["confidence_now"],
            "direction": pd.Series([direction(row) for _, row in both.iterrows()], both.index, object),
        }
    )


def assert_as_judged(before: Run, now: Run) -> list[dict[str, Any]]:
    chunks = list(align(before, now))
    flips, expected = flips_of(chunks), judged(before, now).to_dict("records")
    assert flips == [CONSTANTS | {"run_date": pd.Timestamp(2026, 1, 31)} | row for row in expected]
    pairs = Pairs.total(chunk.count() for chunk in chunks)
    assert int(pairs.changed) == len(expected)
    for digit, (lost, gained) in enumerate(zip(pairs.cells[:, 1, 0], pairs.cells[:, 0, 1], strict=True)):
        directions = [row["direction"] for row in expected if row["label"] == digit]
        assert (directions.count("lost"), directions.count("gained")) == (lost, gained)
    return flips


# The same images


@settings(max_examples=25)
@given(images=st.integers(1, 40), shards=st.tuples(st.integers(1, 45), st.integers(1, 45)), labelled=st.booleans())
def test_runs_of_any_two_shard_sizes_are_paired_image_by_image(
    images: int, shards: tuple[int, int], labelled: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)  # of up to 170 files an example
        before, now = two_runs(tmp_path_factory.mktemp("runs"), shards, (images, images), labelled)
    chunks = list(align(before, now))
    ids = [chunk.now["image_id"].to_pylist() for chunk in chunks]
    assert [chunk.before["image_id"].to_pylist() for chunk in chunks] == ids
    assert [image for chunk in ids for image in chunk] == list(range(images))
    edges = {*range(0, images, shards[0]), *range(0, images, shards[1]), images}
    assert [len(chunk) for chunk in ids] == np.diff(sorted(edges)).tolist()
    assert_as_judged(before, now)


def test_flips_are_the_images_whose_prediction_changed_in_every_direction(tmp_path: Path) -> None:
    before, now = two_runs(tmp_path, (100, 77), (300, 300))
    flips = assert_as_judged(before, now)
    assert {row["direction"] for row in flips} == {"lost", "gained", "still wrong"}
    assert 200 < len(flips) < 300


def test_without_labels_flips_have_no_direction_and_nothing_is_lost(tmp_path: Path) -> None:
    before, now = two_runs(tmp_path, labelled=False)
    flips = assert_as_judged(before, now)
    assert flips
    assert {(row["direction"], row["label"]) for row in flips} == {(None, None)}
    pairs = Pairs.total(chunk.count() for chunk in align(before, now))
    assert not pairs.cells.any()
    assert int(pairs.changed) == len(flips)


def test_images_without_the_same_label_in_both_runs_count_as_changed_predictions_only(tmp_path: Path) -> None:
    some = np.where(np.arange(300) < 200, np.arange(300) % 10, NO_LABEL)  # in some files all, in some none
    relabelled = np.where(np.arange(300) < 150, NO_LABEL, (np.arange(300) + (np.arange(300) < 160)) % 10)
    before = publish_run(tmp_path, identity("2026-01-30", images=300, shard_rows=100), labels_of=some, views=False)
    who = identity(images=300, shard_rows=77, labels_sha256="7" * 64)
    now = publish_run(tmp_path, who, seed=1, labels_of=relabelled, views=False)
    flips = assert_as_judged(before, now)
    assert {row["image_id"] for row in flips if row["direction"]} <= {*range(160, 200)}
    assert sum(chunk.count().cells.sum() for chunk in align(before, now)) == 40


def test_a_run_against_one_of_the_same_predictions_has_no_flips(tmp_path: Path) -> None:
    before, now = two_runs(tmp_path, seed=0)
    chunks = list(align(before, now))
    assert flips_of(chunks) == []
    assert all(chunk.flips(CONSTANTS).schema.equals(tables.FLIPS.schema) for chunk in chunks)
    pairs = Pairs.total(chunk.count() for chunk in chunks)
    assert (int(pairs.cells.sum()), int(pairs.changed)) == (12, 0)


def test_a_run_can_be_paired_with_itself(tmp_path: Path) -> None:
    run, _ = two_runs(tmp_path)
    assert [chunk.before.num_rows for chunk in align(run, run)] == [5, 5, 2]


def test_flips_of_chunks_are_ready_to_be_appended_to_one_file(tmp_path: Path) -> None:
    for number, labelled in enumerate((True, False)):
        before, now = two_runs(tmp_path / str(number), labelled=labelled)
        writer = tables.Writer(tables.FLIPS, tmp_path / f"{number}.parquet")
        for chunk in align(before, now):
            writer.append(chunk.flips(CONSTANTS))
        writer.close()
        data = (tmp_path / f"{number}.parquet").read_bytes()
        assert tables.decode(tables.FLIPS, data, "x").to_pylist() == flips_of(list(align(before, now)))


# Runs that are not over the same images, whatever their manifests say


def refused(before: Run, now: Run) -> tuple[int, str]:
    """How many images were handed out before it was noticed, and what was said."""
    chunks: list[AlignedChunk] = []
    with pytest.raises(DamagedError, match=r"expected the same images and labels, as their manifests say") as caught:
        chunks.extend(align(before, now))  # keeps what came before the error
    assert all(chunk.before["image_id"].equals(chunk.now["image_id"]) for chunk in chunks)
    seen, text = sum(chunk.now.num_rows for chunk in chunks), str(caught.value)
    assert text.startswith(f"runs {before.name.run_id} and {now.name.run_id}: ")
    assert text.endswith("; `mnist-pipeline verify` looks at both")
    return seen, text


@pytest.mark.parametrize(
    ("images", "first"), [((12, 14), 12), ((14, 12), 12), ((10, 12), 10), ((12, 5), 5), ((1, 12), 1)]
)
def test_a_run_of_more_images_than_the_other_is_refused(images: tuple[int, int], first: int, tmp_path: Path) -> None:
    seen, text = refused(*two_runs(tmp_path, images=images))
    assert seen == first
    assert f"got others from image {first} on;" in text


@pytest.mark.parametrize("place", [0, 3, 4, 7, 11])
def test_an_image_with_another_label_is_refused_and_named(place: int, tmp_path: Path) -> None:
    labels = np.arange(12) % 10
    labels[place:] = (labels[place:] + 1) % 10
    seen, text = refused(*two_runs(tmp_path, labels_of=labels))
    assert f"got others from image {place} on;" in text
    assert seen <= place


def test_images_of_other_numbers_are_refused(tmp_path: Path) -> None:
    seen, text = refused(*two_runs(tmp_path, first_id=3))
    assert (seen, "got others from image 0 on;" in text) == (0, True)


def test_labels_on_one_side_only_are_refused(tmp_path: Path) -> None:
    seen, text = refused(*two_runs(tmp_path, labels_of=np.full(12, NO_LABEL)))
    assert (seen, "got others from image 0 on;" in text) == (0, True)


@pytest.mark.parametrize("which", [0, 1])
def test_a_damaged_prediction_file_is_refused_when_its_turn_comes(which: int, tmp_path: Path) -> None:
    pair = two_runs(tmp_path, (4, 4))
    flip_bit(pair[which].folder / "predictions" / "part-00001.parquet")
    chunks = align(*pair)
    assert next(chunks).now["image_id"].to_pylist() == [0, 1, 2, 3]
    with pytest.raises(DamagedError, match=rf"{pair[which].folder}.*part-00001.parquet: expected sha256"):
        next(chunks)


# Memory


def test_parts_are_decoded_when_they_are_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, now = two_runs(tmp_path, (5, 4))
    read: list[tuple[str, str]] = []
    decode = tables.decode

    def noted(table: tables.Table, data: bytes, name: str, *how: Any) -> pa.Table:
        read.append((Path(name).parent.parent.name[:10], name[-9]))
        return decode(table, data, name, *how)

    monkeypatch.setattr(tables, "decode", noted)
    old, new = "2026-01-30", "2026-01-31"
    expected = [[(old, "0"), (new, "0")], [(new, "1")], [(old, "1")], [(new, "2")], [(old, "2")]]
    for step, _ in enumerate(align(before, now), 1):
        assert read == [each for parts in expected[:step] for each in parts]
    assert step == 5


def test_one_part_of_each_run_is_in_memory_whatever_how_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = 4000
    before, now = two_runs(tmp_path, (rows, rows * 3 // 4), (10 * rows, 10 * rows))
    decode, alive, made = tables.decode, [], []
    start = pa.total_allocated_bytes()

    def measured(*arguments: Any) -> pa.Table:
        alive.append(pa.total_allocated_bytes() - start)
        part = decode(*arguments)
        made.append(pa.total_allocated_bytes() - start - alive[-1])
        return part

    monkeypatch.setattr(tables, "decode", measured)
    paired = 0
    for chunk in align(before, now):
        paired += chunk.now.num_rows
        del chunk  # what a caller keeps, it keeps
    assert paired == 10 * rows
    assert len(alive) == 10 + 14
    assert max(made) > 14 * rows  # an int64, a float32 and two int8 each
    assert max(alive) <= max(made)  # while one part is read, no more than one of the other run
