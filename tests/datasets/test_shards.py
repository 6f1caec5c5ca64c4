import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mnist_pipeline import tables
from mnist_pipeline.core import idx, images
from mnist_pipeline.core.images import NO_LABEL, PIXELS, as_bytes
from mnist_pipeline.core.plan import Shard, plan_shards
from mnist_pipeline.datasets.formats.idx import IdxSplit, open_split
from mnist_pipeline.datasets.shards import (
    ShardFile,
    open_shard,
    read_batches,
    read_selected,
    read_shard_labels,
    write_shard,
)
from mnist_pipeline.datasets.source_files import SourceFile, verified_file
from mnist_pipeline.errors import DamagedError, DataError, OutputsError
from mnist_pipeline.runs.manifest import Identity
from mnist_pipeline.store.checkpoints import CheckpointFolder
from mnist_pipeline.store.local import LocalStore
from tests.builders import random_images, random_labels
from tests.published import identity, on_disk, opened
from tests.stores import FaultyStore

ROWS = 23
SHARD_ROWS = 10
IMAGES = random_images(ROWS)
IMAGES[0, 0] = np.arange(28)
LABELS = random_labels(ROWS)
PLAN = plan_shards(ROWS, SHARD_ROWS)
# The definition, written out a second time: float32 quotient of pixel and 255, row by row.
PIXELS_OF_ALL = np.stack([(image / np.float32(255)).ravel() for image in IMAGES.astype(np.float32)])


def opened_shard(checkpoints: CheckpointFolder, shard: Shard) -> ShardFile:
    file = open_shard(checkpoints, shard)
    assert file is not None
    return file


def make_source_split(
    folder: Path, pixels: NDArray[np.uint8] = IMAGES, labels: NDArray[np.uint8] | None = LABELS
) -> IdxSplit:
    def written(name: str, array: NDArray[np.uint8]) -> SourceFile:
        data = idx.encode(array)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        return verified_file(folder / name)

    return open_split("toy", "test", written("images", pixels), None if labels is None else written("labels", labels))


def written_set(outputs: Path, source_split: IdxSplit, shard_rows: int = SHARD_ROWS) -> CheckpointFolder:
    checkpoints = opened(outputs).shard_set(source_split, shard_rows)
    for shard in plan_shards(source_split.rows, shard_rows):
        write_shard(source_split, shard, checkpoints)
    return checkpoints


@pytest.fixture(scope="module")
def source_split(tmp_path_factory: pytest.TempPathFactory) -> IdxSplit:
    return make_source_split(tmp_path_factory.mktemp("source_split"))


@pytest.fixture(scope="module")
def written(source_split: IdxSplit, tmp_path_factory: pytest.TempPathFactory) -> CheckpointFolder:
    """The shards of the whole split; tests only read them."""
    return written_set(tmp_path_factory.mktemp("outputs"), source_split)


# Files


def test_shards_hold_every_image_once_in_order(written: CheckpointFolder) -> None:
    content = pq.read_table(on_disk(written.location))  # as an analyst would: the whole folder
    assert content["image_id"].to_pylist() == list(range(ROWS))
    assert content["label"].to_pylist() == LABELS.tolist()
    assert b"".join(content["pixels"].to_pylist()) == PIXELS_OF_ALL.astype("<f4").tobytes()
    assert [path.name for path in sorted(on_disk(written.location).iterdir())] == [shard.file_name for shard in PLAN]


def test_a_shard_file_has_the_declared_schema_and_says_what_it_is(written: CheckpointFolder) -> None:
    schema = pq.read_schema(on_disk(written.location) / PLAN[0].file_name)
    assert schema.equals(tables.IMAGES.schema, check_metadata=True)
    assert schema.field("pixels").type == pa.binary(PIXELS * 4)
    assert not schema.field("pixels").nullable
    assert schema.metadata[b"schema_version"] == tables.SCHEMA_VERSION.encode()
    assert json.loads(schema.metadata[b"pixels"]) == {
        "dtype": "<f4",
        "shape": [784],
        "image_shape": [28, 28],
        "order": "row-major",
        "range": [0, 1],
    }


def test_the_reader_in_the_metadata_gives_the_normalised_pixels_exactly(written: CheckpointFolder) -> None:
    line = pq.read_schema(on_disk(written.location) / PLAN[0].file_name).metadata[b"read_pixels"].decode()
    pixels = eval(line, {"np": np, "df": pd.read_parquet(on_disk(written.location))})
    np.testing.assert_array_equal(pixels, PIXELS_OF_ALL, strict=True)


def test_a_checkpoint_verifies_its_shard(source_split: IdxSplit, tmp_path: Path) -> None:
    checkpoints = opened(tmp_path).shard_set(source_split, SHARD_ROWS)
    finished = write_shard(source_split, PLAN[2], checkpoints)
    assert (finished.file.path, finished.file.rows) == ("images/part-00002.parquet", 3)
    assert checkpoints.find("part-00002.parquet") == finished
    assert checkpoints.find("part-00000.parquet") is None


def test_the_same_images_give_the_same_bytes(source_split: IdxSplit, written: CheckpointFolder, tmp_path: Path) -> None:
    again = written_set(tmp_path, source_split)
    for shard in PLAN:
        one, two = (on_disk(each.location) / shard.file_name for each in (again, written))
        assert one.read_bytes() == two.read_bytes()


def test_images_without_labels_have_null_labels(tmp_path: Path) -> None:
    checkpoints = written_set(tmp_path / "outputs", make_source_split(tmp_path, labels=None))
    file = opened_shard(checkpoints, PLAN[0])
    np.testing.assert_array_equal(read_shard_labels(file).labels, np.full(SHARD_ROWS, NO_LABEL, np.int8), strict=True)
    assert pd.read_parquet(on_disk(checkpoints.location))["label"].isna().all()
    assert str(pd.read_parquet(on_disk(checkpoints.location))["label"].dtype) == "Int8"


def test_a_source_file_changed_after_it_was_verified_gives_no_shard(tmp_path: Path) -> None:
    source_split = make_source_split(tmp_path)
    checkpoints = opened(tmp_path / "outputs").shard_set(source_split, SHARD_ROWS)
    write_shard(source_split, PLAN[1], checkpoints)
    with on_disk(source_split.images.location).open("r+b") as file:
        file.truncate(16 + 22 * PIXELS)
    with pytest.raises(DataError, match="images: expected the file that was verified, got one changed since"):
        write_shard(source_split, PLAN[2], checkpoints)
    assert [path.name for path in on_disk(checkpoints.location).iterdir()] == [PLAN[1].file_name]


def test_outputs_that_cannot_be_written_are_said(source_split: IdxSplit, tmp_path: Path) -> None:
    (tmp_path / "shards").write_bytes(b"in the way")
    with pytest.raises(OutputsError, match=f"cannot write .*{PLAN[0].file_name}: "):
        write_shard(source_split, PLAN[0], opened(tmp_path).shard_set(source_split, SHARD_ROWS))


# The name of a set


def test_a_sets_name_does_not_depend_on_any_location(source_split: IdxSplit, tmp_path: Path) -> None:
    elsewhere = make_source_split(tmp_path / "other" / "folder")
    here, there = (
        opened(Path("a")).shard_set(source_split, SHARD_ROWS),
        opened(tmp_path).shard_set(elsewhere, SHARD_ROWS),
    )
    assert (here.folder, here.records) == (there.folder, there.records)
    assert re.fullmatch(r"shards/toy-test-[0-9a-f]{12}/images", there.folder)


def test_a_sets_name_changes_with_all_that_its_bytes_depend_on(
    source_split: IdxSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = IMAGES.copy()
    other[-1, -1, -1] ^= 1
    variants = [
        (source_split, SHARD_ROWS),
        (source_split, SHARD_ROWS + 1),
        (make_source_split(tmp_path / "images", other), SHARD_ROWS),
        (make_source_split(tmp_path / "labels", labels=(LABELS + 1) % 10), SHARD_ROWS),
        (make_source_split(tmp_path / "none", labels=None), SHARD_ROWS),
        (replace(source_split, dataset="other"), SHARD_ROWS),
        (replace(source_split, split="train"), SHARD_ROWS),
    ]
    names = [opened(tmp_path).shard_set(split, rows).folder for split, rows in variants]
    monkeypatch.setattr("mnist_pipeline.core.images.TRANSFORM_VERSION", "another/1")
    names.append(opened(tmp_path).shard_set(source_split, SHARD_ROWS).folder)
    monkeypatch.undo()
    monkeypatch.setattr(tables, "SCHEMA_VERSION", "another")
    names.append(opened(tmp_path).shard_set(source_split, SHARD_ROWS).folder)
    assert len(set(names)) == len(names) == 9


def test_naming_a_set_touches_no_disk(source_split: IdxSplit, tmp_path: Path) -> None:
    opened(tmp_path).shard_set(source_split, SHARD_ROWS)
    assert not list(tmp_path.iterdir())


# Reading


@settings(max_examples=30)
@given(shard_rows=st.integers(1, 30), batch_rows=st.integers(1, 30), labelled=st.booleans())
def test_what_is_written_is_read(
    shard_rows: int, batch_rows: int, labelled: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("round-trip")
    source_split = make_source_split(folder, labels=LABELS if labelled else None)
    checkpoints = written_set(folder / "outputs", source_split, shard_rows)
    files = [opened_shard(checkpoints, shard) for shard in plan_shards(ROWS, shard_rows)]
    pixels = np.concatenate([batch for file in files for batch in read_batches(file, batch_rows)])
    np.testing.assert_array_equal(pixels, PIXELS_OF_ALL, strict=True)
    contents = [read_shard_labels(file) for file in files]
    ids = np.concatenate([content.image_ids for content in contents])
    np.testing.assert_array_equal(ids, np.arange(ROWS), strict=True)
    labels = np.concatenate([content.labels for content in contents])
    expected = LABELS.astype(np.int8) if labelled else np.full(ROWS, NO_LABEL, np.int8)
    np.testing.assert_array_equal(labels, expected, strict=True)


@pytest.fixture(scope="module")
def in_row_groups(tmp_path_factory: pytest.TempPathFactory) -> tuple[CheckpointFolder, Shard]:
    """One shard of 23 rows in row groups of 7, so that batches fall within, across and at the edges of groups."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "SHARD_ROW_GROUP", 7)
        folder = tmp_path_factory.mktemp("row-groups")
        return written_set(folder / "outputs", make_source_split(folder), ROWS), plan_shards(ROWS, ROWS)[0]


@given(st.integers(1, ROWS + 5))
def test_batches_of_any_size_are_the_same_rows_and_only_the_last_is_shorter(
    in_row_groups: tuple[CheckpointFolder, Shard], batch_rows: int
) -> None:
    file = opened_shard(*in_row_groups)
    assert file.parquet.metadata.num_row_groups == 4
    batches = list(read_batches(file, batch_rows))
    assert [len(batch) for batch in batches[:-1]] == [batch_rows] * (len(batches) - 1)
    assert 1 <= len(batches[-1]) <= batch_rows
    np.testing.assert_array_equal(np.concatenate(batches), PIXELS_OF_ALL, strict=True)


def test_a_row_group_of_a_real_shard_is_small_enough_to_hold_while_it_is_written() -> None:
    assert tables.SHARD_ROW_GROUP * tables.PIXEL_BYTES < 8 << 20


@pytest.mark.parametrize("batch_rows", [7, 10])
def test_batches_are_not_copied_not_even_across_row_groups(
    in_row_groups: tuple[CheckpointFolder, Shard], batch_rows: int
) -> None:
    for batch in read_batches(opened_shard(*in_row_groups), batch_rows):
        assert not batch.flags.owndata


def test_batches_are_read_one_row_group_at_a_time(in_row_groups: tuple[CheckpointFolder, Shard]) -> None:
    opened = opened_shard(*in_row_groups)
    reads: list[int] = []

    class Counted(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            reads.append(self.tell())
            return super().read(size) or b""

    checkpoints, shard = in_row_groups
    counted = Counted(on_disk(checkpoints.location) / shard.file_name)
    parquet = pq.ParquetFile(counted, pre_buffer=False)
    pixels = opened.parquet.schema_arrow.get_field_index("pixels")
    starts = [parquet.metadata.row_group(group).column(pixels).data_page_offset for group in range(4)]
    reads.clear()
    batches = read_batches(replace(opened, parquet=parquet), 5)
    assert reads == []
    next(batches)
    assert reads == starts[:1]
    next(batches)
    assert reads == starts[:2]


# Damage


def damaged(checkpoints: CheckpointFolder, shard: Shard, folder: Path) -> tuple[CheckpointFolder, Path]:
    """A copy of one shard of `checkpoints`, with its record, that a test may damage."""
    copy = CheckpointFolder(LocalStore(folder), "images", "records")
    for name in (f"images/{shard.file_name}", f"records/{shard.file_name}.json"):
        source = checkpoints.folder.removesuffix("images") + name
        copy.store.write(name, checkpoints.store.read(source))
    return copy, on_disk(copy.location) / shard.file_name


def chunks(path: Path) -> list[tuple[int, int]]:
    """Start and stop of each column's bytes in the file: a header, then one page."""
    group = pq.ParquetFile(path).metadata.row_group(0)
    columns = [group.column(index) for index in range(group.num_columns)]
    return [(column.data_page_offset, column.data_page_offset + column.total_compressed_size) for column in columns]


@given(data=st.data())
def test_a_flipped_bit_is_damage_and_one_in_a_page_is_caught_where_nothing_is_hashed(
    data: st.DataObject, written: CheckpointFolder, source_split: IdxSplit, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shard = PLAN[1]
    checkpoints, path = damaged(written, shard, tmp_path_factory.mktemp("flipped"))
    content = bytearray(path.read_bytes())
    start, stop = chunks(path)[3]  # the pixels
    # The last bytes of a chunk are page for certain. Its first are a header, which no checksum covers.
    position = data.draw(st.integers(start + 100, stop - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    assert open_shard(checkpoints, shard) is None
    with pytest.raises(DamagedError, match=rf"shard 2 of 3 \({re.escape(str(path))}\): .*CRC checksum.*run again"):
        read_selected(checkpoints, run_of(source_split), [12])


@pytest.mark.parametrize("size", [0, 3, 100, -1, -9])
def test_a_shard_cut_short_is_damage(
    size: int, written: CheckpointFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints, path = damaged(written, PLAN[0], tmp_path)
    assert open_shard(checkpoints, PLAN[0]) is not None
    path.write_bytes(path.read_bytes()[:size])
    assert open_shard(checkpoints, PLAN[0]) is None
    assert f"{path} is damaged and will be recomputed: expected" in caplog.text


def test_a_missing_shard_and_one_without_a_record_are_not_opened(written: CheckpointFolder, tmp_path: Path) -> None:
    checkpoints, path = damaged(written, PLAN[0], tmp_path)
    assert open_shard(checkpoints, PLAN[1]) is None
    checkpoints.store.delete(f"records/{path.name}.json")
    assert open_shard(checkpoints, PLAN[0]) is None


def test_a_shard_of_another_number_of_rows_is_refused(written: CheckpointFolder, tmp_path: Path) -> None:
    checkpoints, path = damaged(written, PLAN[2], tmp_path)
    checkpoints.write(PLAN[0].file_name, 3, path.read_bytes(), {})
    with pytest.raises(DamagedError, match=r"shard 1 of 3 \(.*\): expected 10 rows, got 3; run again to rebuild it"):
        open_shard(checkpoints, PLAN[0])


def test_a_file_that_is_no_shard_is_refused(tmp_path: Path) -> None:
    checkpoints, sink = CheckpointFolder(LocalStore(tmp_path), "images", "records"), io.BytesIO()
    pq.write_table(pa.table({"x": np.arange(SHARD_ROWS)}), sink)
    checkpoints.write(PLAN[0].file_name, SHARD_ROWS, sink.getvalue(), {})
    checkpoints.write(PLAN[1].file_name, SHARD_ROWS, b"no Parquet", {})
    file = opened_shard(checkpoints, PLAN[0])
    with pytest.raises(DamagedError, match=r"shard 1 of 3 \(.*\): expected a whole Parquet file, got .*image_id"):
        read_shard_labels(file)
    with pytest.raises(DamagedError, match=r"shard 1 of 3 \(.*\): expected a whole Parquet file, got .*pixels"):
        next(read_batches(file, 4))
    with pytest.raises(DamagedError, match=r"shard 2 of 3 \(.*\): expected a whole Parquet file, got .*run again"):
        open_shard(checkpoints, PLAN[1])


def test_the_transform_of_a_shard_is_that_of_the_core(written: CheckpointFolder) -> None:
    (batch,) = read_batches(opened_shard(written, PLAN[0]), SHARD_ROWS)
    np.testing.assert_array_equal(batch, images.flatten(images.normalise(IMAGES[:SHARD_ROWS])), strict=True)


# Single pictures of a run


def run_of(source_split: IdxSplit, shard_rows: int = SHARD_ROWS) -> Identity:
    """Who a run over that split is."""
    return identity(
        dataset=source_split.dataset,
        split=source_split.split,
        images=source_split.rows,
        images_sha256=source_split.images.sha256,
        labels_sha256=source_split.labels and source_split.labels.sha256,
        transform_version=source_split.transform_version,
        shard_rows=shard_rows,
    )


@pytest.mark.parametrize("labelled", [True, False])
def test_the_shards_of_a_run_are_those_it_was_made_from(labelled: bool, tmp_path: Path) -> None:
    source_split = make_source_split(tmp_path, labels=LABELS if labelled else None)
    outputs = opened(tmp_path)
    for shard_rows in (1, 10, 1000):
        assert outputs.shard_set(run_of(source_split, shard_rows), shard_rows) == outputs.shard_set(
            source_split, shard_rows
        )
    train = run_of(replace(source_split, split="train"))
    assert outputs.shard_set(train, SHARD_ROWS) != outputs.shard_set(source_split, SHARD_ROWS)


@given(ids=st.sets(st.integers(0, ROWS - 1)))
def test_pictures_have_the_pixels_of_the_idx_file(
    source_split: IdxSplit, written: CheckpointFolder, ids: set[int]
) -> None:
    pictures = read_selected(written, run_of(source_split), ids)
    assert pictures.keys() == ids
    for image_id, picture in pictures.items():
        np.testing.assert_array_equal(as_bytes(picture)[0], IMAGES[image_id], strict=True)


def test_every_value_that_a_pixel_can_have_comes_back(tmp_path: Path) -> None:
    every = np.resize(np.arange(256, dtype=np.uint8), (1, 28, 28))
    source_split = make_source_split(tmp_path, every, LABELS[:1])
    checkpoints = written_set(tmp_path / "outputs", source_split)
    found = read_selected(checkpoints, run_of(source_split), [0])
    np.testing.assert_array_equal(as_bytes(found[0]), every, strict=True)


def test_pictures_are_found_in_any_row_group(
    in_row_groups: tuple[CheckpointFolder, Shard], source_split: IdxSplit
) -> None:
    pictures = read_selected(in_row_groups[0], run_of(source_split, ROWS), range(ROWS))
    assert list(pictures) == list(range(ROWS))
    np.testing.assert_array_equal(as_bytes(np.stack(list(pictures.values()))), IMAGES, strict=True)


def test_only_the_shards_that_hold_a_picture_are_read(
    source_split: IdxSplit, written: CheckpointFolder, tmp_path: Path
) -> None:
    counting = FaultyStore(written.store)
    checkpoints = replace(written, store=counting)
    for ids, expected in (([], []), ([9], [0]), ([10, 19], [1]), ([22, 0], [0, 2]), ([ROWS, -1], [])):
        found = read_selected(checkpoints, run_of(source_split), ids)
        assert found.keys() == {image_id for image_id in ids if 0 <= image_id < ROWS}
        files = [f"{written.folder}/{PLAN[index].file_name}" for index in expected]
        assert counting.calls == [("read", name) for name in files]
        counting.calls.clear()
    copy, _ = damaged(written, PLAN[1], tmp_path)  # the other shards are gone
    np.testing.assert_array_equal(as_bytes(read_selected(copy, run_of(source_split), [12])[12])[0], IMAGES[12])


def test_a_picture_in_a_missing_shard_is_refused(
    source_split: IdxSplit, written: CheckpointFolder, tmp_path: Path
) -> None:
    checkpoints, path = damaged(written, PLAN[1], tmp_path)
    path.unlink()
    with pytest.raises(DamagedError, match=rf"^{re.escape(str(path))}: expected a shard, got no file$"):
        read_selected(checkpoints, run_of(source_split), [12])
