from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mnist_pipeline.core.plan import plan_shards
from mnist_pipeline.datasets import image_keys
from mnist_pipeline.datasets.image_keys import require_unique
from mnist_pipeline.datasets.shards import (
    open_shard,
    read_keys,
    read_selected,
    read_shard_labels,
    shard_set_name,
    write_shard,
)
from mnist_pipeline.errors import DamagedError, DataError
from mnist_pipeline.runs.manifest import Identity
from mnist_pipeline.store.checkpoints import CheckpointFolder
from tests.keyed import KeyedSplit, keyed_split
from tests.published import identity, on_disk, opened

ROWS, SHARD_ROWS = 25, 10
PLAN = plan_shards(ROWS, SHARD_ROWS)
KEYS = [f"img-{number:03}.png" for number in range(ROWS)]


def written(outputs: Path, split: KeyedSplit) -> CheckpointFolder:
    checkpoints = opened(outputs).shard_set(split, SHARD_ROWS)
    for shard in PLAN:
        write_shard(split, shard, checkpoints)
    return checkpoints


def test_shards_hold_the_key_of_each_image(tmp_path: Path) -> None:
    checkpoints = written(tmp_path / "outputs", keyed_split(tmp_path, KEYS))
    assert [key for shard in PLAN for key in read_keys(checkpoints, shard).to_pylist()] == KEYS
    file = open_shard(checkpoints, PLAN[1])
    assert file is not None
    keys = read_shard_labels(file).keys
    assert keys is not None
    assert keys.to_pylist() == KEYS[10:20]


@pytest.mark.parametrize(("key", "got"), [(None, "null"), ("", "an empty one")])
def test_an_image_without_a_key_among_others_is_refused_and_named(key: str | None, got: str, tmp_path: Path) -> None:
    split = keyed_split(tmp_path, [*KEYS[:13], key, *KEYS[14:]])
    with pytest.raises(DataError, match=f"toy/test: image 13: expected a key in 'path', got {got}; fill it in, or"):
        written(tmp_path / "outputs", split)


def test_a_shard_set_and_a_run_depend_on_where_keys_come_from_and_on_nothing_new_without(tmp_path: Path) -> None:
    split, plain = keyed_split(tmp_path, KEYS), identity()
    assert shard_set_name(split, 10) != shard_set_name(split.inner, 10)
    keyed = identity(keys_from="path")
    assert keyed.run_id != identity(keys_from="id").run_id != plain.run_id
    assert "keys_from" not in plain.model_dump_json()
    assert all(Identity.model_validate_json(each.model_dump_json()) == each for each in (plain, keyed))
    assert plain.run_id == "2026-01-31-toy-test-a52f3a9db586"  # as before images had keys


def test_a_damaged_or_missing_shard_has_no_keys(tmp_path: Path) -> None:
    checkpoints = written(tmp_path / "outputs", keyed_split(tmp_path, KEYS))
    path = on_disk(checkpoints.location) / PLAN[0].file_name
    column = pq.read_metadata(path).row_group(0).column(1)
    assert column.path_in_schema == "image_key"
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedError, match=r"shard 1 of 3 .*: expected a whole Parquet file, got .*; run again"):
        read_keys(checkpoints, PLAN[0])
    path.unlink()
    with pytest.raises(DamagedError, match=r"shard 1 of 3 .*: expected a whole Parquet file, got"):
        read_keys(checkpoints, PLAN[0])


@pytest.mark.parametrize(("first", "second"), [(0, 1), (3, 24), (9, 10)])
@pytest.mark.parametrize("accidents", [False, True])
def test_two_images_of_the_same_key_are_refused_and_named(
    first: int, second: int, accidents: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if accidents:  # many different keys of the same hash
        monkeypatch.setattr(image_keys, "hash", lambda key: len(key) % 2, raising=False)
    keys = [*KEYS]

    def each() -> Iterator[pa.StringArray]:
        for start in range(0, ROWS, 10):
            yield pa.array(keys[start : start + 10], pa.string())

    require_unique(each, ROWS, "toy/test")
    keys[second] = keys[first]
    with pytest.raises(DataError, match=f"toy/test: .* got '{keys[first]}' for images {first} and {second}; name"):
        require_unique(each, ROWS, "toy/test")


def test_pixels_are_read_of_shards_with_keys_too(tmp_path: Path) -> None:
    split = keyed_split(tmp_path, KEYS)
    checkpoints = written(tmp_path / "outputs", split)
    found = read_selected(checkpoints, identity(images=ROWS, shard_rows=SHARD_ROWS), [0, 24])
    assert set(found) == {0, 24}
