"""Which runs hash their source files, which use the hash cache, and what happens when files are damaged."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mnist_pipeline.cli import app
from mnist_pipeline.core import idx
from mnist_pipeline.datasets.catalogue import Dataset, IdxFile, Split
from mnist_pipeline.datasets.formats.files import FileSplit
from mnist_pipeline.datasets.formats.idx import IdxSplit
from mnist_pipeline.datasets.source_files import SourceFile
from mnist_pipeline.errors import ChecksumError, DataError
from mnist_pipeline.pipeline import evaluation, inputs
from mnist_pipeline.pipeline.examples import Wanted, pick
from mnist_pipeline.runs.lookup import list_runs
from mnist_pipeline.settings import Settings
from mnist_pipeline.store import local
from tests.builders import images_name, labels_name, random_images, random_labels, small_settings
from tests.parquet_files import column, write
from tests.published import flip_bit, hashes, on_disk, opened
from tests.remembered import plant

ROWS = 25
OTHER_NIGHT = {"run_date": "2026-02-01"}

MakeSettings = Callable[..., Settings]


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash cache accepts files at once."""
    monkeypatch.setattr(local, "RACY_NS", 0)


@pytest.fixture(params=["idx", "parquet", "folder"])
def night(request: pytest.FixtureRequest, tmp_path: Path) -> MakeSettings:
    """Settings of runs over the same images: in IDX files, in a Parquet file, or in two of them."""
    images, labels = random_images(ROWS), random_labels(ROWS)
    if request.param == "idx":
        return lambda **changes: small_settings(tmp_path, ROWS, **changes)
    path = write(tmp_path / "mine" / "a.parquet", column(images[:15]), labels[:15])
    if request.param == "folder":
        write(tmp_path / "mine" / "b.parquet", column(images[15:]), labels[15:])
        path = path.parent
    return lambda **changes: small_settings(tmp_path, **({"images": path, "data_dir": None} | changes))


def files_of(settings: Settings) -> list[SourceFile]:
    """The files that a run with these settings opens."""
    split = inputs.open_images(settings)
    if isinstance(split, IdxSplit):
        return [file for file in (split.images, split.labels) if file]
    assert isinstance(split, FileSplit)
    return [file.source_file for file in split.files]


def cache_hits(settings: Settings) -> set[bool]:
    return {file.remembered_in is not None for file in files_of(settings)}


def rewrite(settings: Settings) -> Path:
    """Put other images into the first file, and say which that is."""
    split = inputs.open_images(settings)
    if isinstance(split, IdxSplit):
        on_disk(split.images.location).write_bytes(idx.encode(random_images(ROWS, seed=1)))
        return on_disk(split.images.location)
    assert isinstance(split, FileSplit)
    path, rows = on_disk(split.files[0].source_file.location), split.files[0].stop
    return write(path, column(random_images(rows, seed=1)), random_labels(rows))


def rot(settings: Settings) -> None:
    """Change images undetectably: the hash cache maps the new bytes to the hash of the old ones."""
    good = files_of(settings)[0].sha256
    path = rewrite(settings)
    assert hashlib.sha256(path.read_bytes()).hexdigest() != good
    plant(settings.cache / inputs.HASH_CACHE, path, good)


def shards_of(settings: Settings) -> list[Path]:
    return sorted(on_disk(settings.outputs).glob("shards/*/images/*.parquet"))


# Who is hashed


def test_a_run_whose_shards_exist_takes_hashes_from_the_cache(night: MakeSettings) -> None:
    first = evaluation.evaluate(night())
    assert cache_hits(night()) == {True}
    second = evaluation.evaluate(night(**OTHER_NIGHT))
    assert second.identity.images_sha256 == first.identity.images_sha256
    assert second.identity.labels_sha256 == first.identity.labels_sha256
    assert second.totals == first.totals


@pytest.mark.parametrize("change", ["a shard is gone", "other shards", "other outputs", "no memory"])
def test_a_night_that_builds_a_shard_hashes_every_file_before(change: str, night: MakeSettings, tmp_path: Path) -> None:
    before = evaluation.evaluate(night())
    settings = night()
    if change == "a shard is gone":
        shards_of(settings)[1].unlink()
    elif change == "other shards":
        settings = night(shard_rows=9)
    elif change == "other outputs":
        settings = night(outputs=tmp_path / "elsewhere")
    else:
        (settings.cache / inputs.HASH_CACHE).unlink()
    assert cache_hits(settings) == {False}
    assert evaluation.evaluate(settings).identity.images_sha256 == before.identity.images_sha256


def test_a_file_that_has_changed_is_hashed_and_is_another_data_set(night: MakeSettings) -> None:
    before = evaluation.evaluate(night())
    rewrite(night())
    after = evaluation.evaluate(night())
    assert after.new
    assert after.identity.images_sha256 != before.identity.images_sha256


def test_fetching_to_read_all_bytes_hashes_them(tmp_path: Path) -> None:
    settings = small_settings(tmp_path, ROWS)
    evaluation.evaluate(settings)
    true = [file.sha256 for file in files_of(settings)]
    plant(settings.cache / inputs.HASH_CACHE, tmp_path / "data" / images_name(), "f" * 64)
    source_images = inputs.fetch(settings)
    assert [source_images.images.sha256, source_images.labels.sha256 if source_images.labels else None] == true
    words = ["fetch", "--dataset", "toy", "--split", "test", "--data-dir", tmp_path / "data", "--cache", settings.cache]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert f"{images_name()}  sha256 {true[0][:12]}..." in done.stdout


def test_a_cache_that_cannot_be_written_fails_nothing(night: MakeSettings, tmp_path: Path) -> None:
    (tmp_path / "in the way").write_bytes(b"")
    for date in ("2026-01-31", "2026-02-01"):
        settings = night(cache=tmp_path / "in the way", run_date=date)
        assert evaluation.evaluate(settings).new
        assert cache_hits(settings) == {False}


# Files that rot without a trace in their times


def test_while_its_shards_are_there_rot_reaches_nothing(night: MakeSettings) -> None:
    before = evaluation.evaluate(night())
    rot(night())
    after = evaluation.evaluate(night(**OTHER_NIGHT))
    assert after.identity.images_sha256 == before.identity.images_sha256
    assert after.totals == before.totals


def test_rot_is_found_before_a_missing_shard_is_built_under_the_old_hash(night: MakeSettings) -> None:
    before = evaluation.evaluate(night())
    rot(night())
    gone = shards_of(night())[1]
    gone.unlink()
    after = evaluation.evaluate(night(**OTHER_NIGHT))  # nothing pins these files: they are other images now
    assert after.identity.images_sha256 != before.identity.images_sha256
    assert not gone.exists()


def test_rot_of_pinned_files_is_refused_before_a_missing_shard_is_built(tmp_path: Path) -> None:
    settings = small_settings(tmp_path, ROWS)
    pins = {
        name: IdxFile(name=name, sha256=hashlib.sha256((tmp_path / "data" / name).read_bytes()).hexdigest())
        for name in (images_name(), labels_name())
    }
    split = Split(images=pins[images_name()], labels=pins[labels_name()])
    pinned = settings.model_copy(update={"datasets": {"toy": Dataset(title="Toy", splits={"test": split})}})
    evaluation.evaluate(pinned)
    rot(pinned)
    assert not evaluation.evaluate(pinned).new
    gone = shards_of(pinned)[1]
    gone.unlink()
    for _ in range(2):
        with pytest.raises(ChecksumError, match=f"{images_name()}: expected sha256 {pins[images_name()].sha256}, got"):
            evaluation.evaluate(pinned)
    assert not gone.exists()


def test_rot_is_found_before_a_damaged_shard_is_built_again(night: MakeSettings) -> None:
    before = evaluation.evaluate(night())
    rot(night())
    shard = shards_of(night())[0]
    flip_bit(shard)
    damaged = hashes(shard.parent)
    with pytest.raises(DataError, match=r"as when it was hashed last, got .* and run again to verify it again"):
        evaluation.evaluate(night(**OTHER_NIGHT))
    assert hashes(shard.parent) == damaged
    assert len(list_runs(opened(night().outputs))) == 1
    after = evaluation.evaluate(night(**OTHER_NIGHT))
    assert after.identity.images_sha256 != before.identity.images_sha256


def test_a_number_of_images_read_from_unhashed_bytes_is_not_believed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", column(random_images(ROWS)), random_labels(ROWS))
    settings = small_settings(tmp_path, images=path, data_dir=None)
    before = evaluation.evaluate(settings)
    write(path, column(random_images(10)), random_labels(10))
    plant(settings.cache / inputs.HASH_CACHE, path, before.identity.images_sha256)
    after = evaluation.evaluate(settings)
    assert after.identity.images == 10
    assert after.identity.images_sha256 != before.identity.images_sha256


def test_images_that_rotted_are_not_shown(night: MakeSettings) -> None:
    evaluation.evaluate(night())
    rot(night())
    with pytest.raises(DataError, match="as when it was hashed last"):
        pick(night(), Wanted(), 25)
