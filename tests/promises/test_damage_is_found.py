"""Damage is found: whatever bit is flipped and wherever a file is cut, it is said which; the next run repairs it."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from typer.testing import CliRunner, Result

from mnist_pipeline import load_history, load_run
from mnist_pipeline.cli import app
from mnist_pipeline.core.plan import plan_shards
from mnist_pipeline.datasets.shards import ShardFile, open_shard, read_batches, read_shard_labels
from mnist_pipeline.errors import DamagedError, WeightsError
from mnist_pipeline.pipeline.nightly import run_nightly
from mnist_pipeline.pipeline.planning import current_weights
from mnist_pipeline.runs.lookup import list_runs, run_by_id
from mnist_pipeline.settings import Settings
from mnist_pipeline.verdicts.records import newest_verdict
from mnist_pipeline.weights.files import load_weights
from tests.builders import random_network, small_settings
from tests.promises.conftest import Tried
from tests.promises.mutants import Mutant
from tests.published import flip_bit, hashes, on_disk, opened, promote_to

FLIPS_IN_A_FILE = 12
PUBLISHED = [
    "confusion.parquet",
    "inputs.parquet",
    "manifest.json",
    "predictions/part-00000.parquet",
    "predictions/part-00001.parquet",
    "predictions/part-00002.parquet",
    "reliability.parquet",
    "summary.parquet",
]
Damage = tuple[str, bytes]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A night that is published and judged. Tests put back what they damage."""
    settings = small_settings(tmp_path_factory.mktemp("damage"))
    run_nightly(settings)
    return settings


@pytest.fixture
def own(tmp_path: Path) -> Settings:
    """The same, for one test alone."""
    settings = small_settings(tmp_path)
    run_nightly(settings)
    return settings


def command(settings: Settings, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--outputs", str(settings.outputs)])


def some_damages(data: bytes, seed: str) -> Iterator[Damage]:
    """Single bits flipped, among them in the first and last bytes; cuts, among them to nothing and by one byte."""
    chance = random.Random(seed)
    places = [chance.randrange(len(data)) for _ in range(FLIPS_IN_A_FILE)]
    for place in [0, len(data) - 1, *places]:
        yield f"bit of byte {place}", with_bit(data, place, chance.randrange(8))
    for size in [0, 1, len(data) - 1, *(chance.randrange(len(data)) for _ in range(3))]:
        yield f"cut to {size} bytes", data[:size]


def every_byte(data: bytes, seed: str) -> Iterator[Damage]:
    """A bit of each byte, and a cut before each."""
    chance = random.Random(seed)
    for place in range(len(data)):
        yield f"bit of byte {place}", with_bit(data, place, chance.randrange(8))
        yield f"cut to {place} bytes", data[:place]


def with_bit(data: bytes, place: int, bit: int) -> bytes:
    altered = bytearray(data)
    altered[place] ^= 1 << bit
    return bytes(altered)


def with_each(path: Path, damages: Callable[[bytes, str], Iterator[Damage]]) -> Iterator[str]:
    """The file with each damage in turn, and as it was in the end."""
    data = path.read_bytes()
    try:
        for what, altered in damages(data, path.name):
            path.write_bytes(altered)
            yield what
    finally:
        path.write_bytes(data)


def run_files(settings: Settings) -> list[Path]:
    (run,) = list_runs(opened(settings.outputs))
    return sorted(path for path in on_disk(run.folder).rglob("*") if path.is_file())


def shard_files(settings: Settings) -> list[Path]:
    return sorted(on_disk(settings.outputs).glob("shards/*/images/*.parquet"))


def require_found_in_run(settings: Settings, name: str, damages: Callable[[bytes, str], Iterator[Damage]]) -> int:
    (run,) = list_runs(opened(settings.outputs))
    path, tried = on_disk(run.folder) / name, 0
    table: Any = "summary" if name == "manifest.json" else Path(name).parts[0].split(".")[0]
    for what in with_each(path, damages):
        assert str(path) in "".join(run.problems()), f"{path}: {what}"
        with pytest.raises(DamagedError, match=path.name):
            load_run(run.name.run_id, table=table, outputs=str(settings.outputs))
        tried += 1
    assert run.problems() == []
    return tried


def require_found_in_shards(settings: Settings, damages: Callable[[bytes, str], Iterator[Damage]]) -> int:
    (run,) = list_runs(opened(settings.outputs))
    who = run.manifest().identity
    checkpoints, tried = opened(settings.outputs).shard_set(who, who.shard_rows), 0
    for shard, path in zip(plan_shards(who.images, who.shard_rows), shard_files(settings), strict=True):
        whole = checkpoints.find(shard.file_name)
        assert whole is not None
        for what in with_each(path, damages):
            assert checkpoints.find(shard.file_name) is None, f"{path}: {what}"  # so it is built again
            assert open_shard(checkpoints, shard) is None, f"{path}: {what}"
            tried += 1
    return tried


def test_a_flipped_bit_or_a_cut_of_any_published_file_is_found_and_the_file_named(toy: Settings, tried: Tried) -> None:
    (run,) = list_runs(opened(toy.outputs))
    assert [path.relative_to(on_disk(run.folder)).as_posix() for path in run_files(toy)] == PUBLISHED
    tried(sum(require_found_in_run(toy, name, some_damages) for name in PUBLISHED), "flips and cuts of a run's files")


def test_a_flipped_bit_or_a_cut_of_any_shard_is_found(toy: Settings, tried: Tried) -> None:
    tried(require_found_in_shards(toy, some_damages), "flips and cuts of shards")


@pytest.mark.torture
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_flip_of_any_byte_and_any_cut_of_a_published_file_is_found(name: str, own: Settings, tried: Tried) -> None:
    tried(require_found_in_run(own, name, every_byte), f"flips and cuts of {name}, at every byte")


@pytest.mark.torture
def test_a_flip_of_any_byte_and_any_cut_of_a_shard_is_found(own: Settings, tried: Tried) -> None:
    tried(require_found_in_shards(own, every_byte), "flips and cuts of shards, at every byte")


def test_no_reader_that_verifies_page_checksums_gets_other_numbers(toy: Settings, tried: Tried) -> None:
    count = 0
    for path in run_files(toy):
        if path.suffix == ".parquet":
            whole = pd.read_parquet(path, page_checksum_verification=True)
            for what in with_each(path, some_damages):
                try:
                    found = pd.read_parquet(path, page_checksum_verification=True)
                except (OSError, ValueError, KeyError, pa.ArrowException):
                    continue
                finally:
                    count += 1
                # A bit of the footer that says nothing about the numbers, such as a statistic or a column's name.
                found.columns = whole.columns
                pd.testing.assert_frame_equal(found, whole, check_dtype=False, obj=f"{path}: {what}")
    tried(count, "damaged files given to pandas")


def test_a_shard_damaged_once_it_is_open_gives_no_other_pixels(toy: Settings, tried: Tried) -> None:
    (run,) = list_runs(opened(toy.outputs))
    who = run.manifest().identity
    checkpoints, count = opened(toy.outputs).shard_set(who, who.shard_rows), 0

    def read(file: ShardFile | None) -> tuple[object, ...]:
        assert file is not None
        labels = read_shard_labels(file)
        batches = [batch.tobytes() for batch in read_batches(file, 4)]
        return labels.image_ids.tolist(), None if labels.labels is None else labels.labels.tolist(), batches

    for shard, path in zip(plan_shards(who.images, who.shard_rows), shard_files(toy), strict=True):
        whole = read(open_shard(checkpoints, shard))
        before = path.read_bytes()
        for what in with_each(path, some_damages):
            damaged = path.read_bytes()
            path.write_bytes(before)
            file = open_shard(checkpoints, shard)
            path.write_bytes(damaged)
            assert read(file) == whole, f"{path}: {what}"
            count += 1
    tried(count, "shards damaged between check and use")


@pytest.mark.parametrize(
    ("what", "pattern", "way_out"),
    [
        ("verdicts", "verdicts/*/*/gates.parquet", "gives it again"),
        ("verdicts", "verdicts/*/*/verdict.json", "gives it again"),
        ("shards", "shards/*/images/part-00001.parquet", "makes it again"),
        ("weights", "weights/*.safetensors", "run again with these weights to restore them"),
    ],
)
def test_verify_finds_what_is_damaged_beside_the_runs_and_says_what_repairs_it(
    what: str, pattern: str, way_out: str, own: Settings
) -> None:
    assert command(own, "verify").exit_code == 0
    (path,) = on_disk(own.outputs).glob(pattern)
    flip_bit(path, -1 if what == "weights" else None)
    found = command(own, "verify")
    assert found.exit_code == 5
    assert f"{what}: {len(shard_files(own)) - 1 if what == 'shards' else 0} verified, 1 damaged" in found.stdout
    assert str(path.parent if what == "verdicts" else path) in found.stdout
    assert way_out in found.stdout
    run_nightly(own)
    assert command(own, "verify").exit_code == 0


def test_verify_names_the_run_the_file_and_the_way_out(own: Settings) -> None:
    path = run_files(own)[3]
    flip_bit(path)
    found = command(own, "verify")
    assert found.exit_code == 5
    assert str(path) in found.stdout
    assert "`mnist-pipeline verify --repair` publishes them again" in found.stderr


# The next run


def test_the_next_run_moves_a_damaged_run_to_quarantine_and_publishes_it_again(own: Settings, tried: Tried) -> None:
    (run,) = list_runs(opened(own.outputs))
    sound = hashes(run.folder)
    files = run_files(own)
    for path in files:
        flip_bit(path)
        damaged = hashes(run.folder)
        judged = run_nightly(own)
        assert judged.published.new
        assert judged.accepted
        assert run.problems() == []
        assert {**hashes(run.folder), "manifest.json": ""} == {**sound, "manifest.json": ""}
        newest = max(on_disk(own.outputs / "quarantine" / "runs").iterdir(), key=lambda path: path.name)
        assert hashes(newest) == damaged
        assert load_run(run.name.run_id, outputs=str(own.outputs)).shape[0] == 25
    tried(len(files), "damaged runs published again")


def test_repair_publishes_a_damaged_run_again_from_the_archived_weights(own: Settings) -> None:
    (run,) = list_runs(opened(own.outputs))
    sound = hashes(run.folder)
    promote_to(own.outputs, random_network(1))  # what is current by now makes another run
    flip_bit(run.folder / "predictions" / "part-00000.parquet")
    words = ["verify", "--repair", "--config", str(config_of(own))]
    found = command(own, *words)
    assert found.exit_code == 0, found.output
    assert "  published again\n" in found.stdout
    assert {**hashes(run.folder), "manifest.json": ""} == {**sound, "manifest.json": ""}
    assert len(list(on_disk(own.outputs / "quarantine" / "runs").iterdir())) == 1
    weights = own.outputs / "weights" / f"{run.manifest().identity.weights_sha256}.safetensors"
    flip_bit(weights, -1)
    flip_bit(run.folder / "predictions" / "part-00000.parquet")
    found = command(own, *words)
    assert found.exit_code == 5
    assert f"not repaired: {weights}: expected the weights its name says, got " in found.stdout


def config_of(settings: Settings) -> Path:
    """A config file that says where the images come from."""
    path = on_disk(settings.outputs).parent / "toy.toml"
    path.write_text(f'data_dir = "{settings.data_dir}"\ncache = "{settings.cache}"\n')
    return path


def test_one_night_repairs_everything_at_once_and_nothing_wedges(own: Settings) -> None:
    (run,) = list_runs(opened(own.outputs))
    before = {path: digest for path, digest in hashes(run.folder).items() if path != "manifest.json"}
    verdict = newest_verdict(opened(own.outputs), run.manifest().content)
    assert verdict is not None
    outputs = on_disk(own.outputs)
    for path in [
        *run_files(own),
        *shard_files(own),
        *outputs.glob("shards/*/records/*"),
        *outputs.glob("weights/*.safetensors"),
        *on_disk(verdict.folder).glob("*.parquet"),
        *(outputs / name for name in ("history.parquet", "runs.parquet", "latest.json")),
    ]:
        flip_bit(path)
    judged = run_nightly(own)
    assert judged.accepted
    assert judged.published.new
    assert {path: digest for path, digest in hashes(run.folder).items() if path != "manifest.json"} == before
    assert command(own, "verify").exit_code == 0
    assert len(load_history(outputs)) == 10
    assert load_run("latest", dataset="toy", outputs=outputs, table="gates").attrs["run_id"] == run.name.run_id
    again = hashes(own.outputs)
    run_nightly(own)
    assert hashes(own.outputs) == again


def test_a_night_goes_on_beside_a_damaged_one_and_is_compared_with_an_older(own: Settings) -> None:
    second = own.model_copy(update={"run_date": own.run_date.replace(day=1, month=2)})
    third = own.model_copy(update={"run_date": own.run_date.replace(day=2, month=2)})
    first = list_runs(opened(own.outputs))[0]
    broken = run_nightly(second).published
    flip_bit(run_by_id(opened(own.outputs), broken.run_id).folder / "summary.parquet")
    judged = run_nightly(third)
    assert judged.accepted
    assert [reference.run_id for reference in judged.verdict.references] == [first.name.run_id]
    assert command(own, "verify", "latest", "--dataset", "toy").exit_code == 0


def test_damaged_weights_are_never_used(own: Settings, tried: Tried) -> None:
    (path,) = on_disk(own.outputs).glob("weights/*.safetensors")
    count = 0
    for what in with_each(path, some_damages):
        count += 1
        try:
            network = load_weights(path)
        except WeightsError:
            continue
        # A number was changed: the file is a network, but not the one its name says.
        assert network != load_weights(current_weights(opened(own.outputs))), what
    tried(count, "damaged weights files")


MUTANTS = (
    Mutant(
        "mnist_pipeline/store/files.py",
        "if (got := hashlib.sha256(data).hexdigest()) != self.sha256:",
        "if (got := hashlib.sha256(data).hexdigest()) == '':",
        "test_a_flipped_bit_or_a_cut_of_any_published_file_is_found_and_the_file_named",
    ),
    Mutant(
        "mnist_pipeline/store/checkpoints.py",
        "if problem := checkpoint.file.problem_with(data):",
        "if problem := None:",
        "test_a_flipped_bit_or_a_cut_of_any_shard_is_found",
    ),
    Mutant(
        "mnist_pipeline/runs/publishing.py",
        "    if run.problems() and replace_run",
        "    if False and replace_run",
        "test_the_next_run_moves_a_damaged_run_to_quarantine_and_publishes_it_again",
    ),
    Mutant(
        "mnist_pipeline/verdicts/records.py",
        "        for file in self.document.files:\n            read_checked(",
        "        for file in ():\n            read_checked(",
        "test_one_night_repairs_everything_at_once_and_nothing_wedges",
    ),
    Mutant(
        "mnist_pipeline/pipeline/judging.py",
        "            if chosen.problem is None:\n                return against, chosen\n",
        "            return against, chosen\n",
        "test_a_night_goes_on_beside_a_damaged_one_and_is_compared_with_an_older",
    ),
)
