"""What cannot be read is not damaged: no command moves, replaces or forgets a run for it, on disk and in a bucket."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mnist_pipeline import load_history, tables
from mnist_pipeline.cli import app
from mnist_pipeline.core.retention import Retention
from mnist_pipeline.errors import DamagedError, StoreError
from mnist_pipeline.maintenance.pruning import plan_prune
from mnist_pipeline.maintenance.verification import require_sound, verify_all
from mnist_pipeline.runs.lookup import list_runs, run_by_id
from mnist_pipeline.runs.publishing import commit
from mnist_pipeline.store import disk, local
from mnist_pipeline.store.base import Address, Location
from mnist_pipeline.store.documents import canonical_sha256
from mnist_pipeline.verdicts.records import sound_verdict
from mnist_pipeline.views import current_views, update_views
from tests.objectstore import ObjectStore, always, objects
from tests.objectstore import server as server
from tests.published import (
    at,
    flip_bit,
    give_up,
    hashes,
    identity,
    on_disk,
    opened,
    publish_run,
    publish_verdict,
    staged,
)

OLD, NEW = identity("2026-01-30"), identity("2026-01-31")

Unreadable = Callable[[str], AbstractContextManager[None]]


@pytest.fixture(params=["disk", "bucket"])
def outputs(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """Two published runs, and a verdict on the first."""
    place: Location = tmp_path / "outputs"
    if request.param == "bucket":
        store: ObjectStore = request.getfixturevalue("server")
        place = store.bucket()
    for who in (OLD, NEW):
        publish_run(place, who, published_at=at(who.run_date.day - 29))
    publish_verdict(place, OLD.run_id, views=True)
    return place


@pytest.fixture
def unreadable(request: pytest.FixtureRequest, outputs: Location, monkeypatch: pytest.MonkeyPatch) -> Unreadable:
    """Makes all files and objects with this in their names unreadable for a while."""
    if isinstance(outputs, Address):
        server: ObjectStore = request.getfixturevalue("server")
        return lambda part: server.proxy.faults(always(lambda method, key: method == "GET" and part in key, "refuse"))

    def refused(part: str) -> Callable[..., bytes]:
        def refuse(path: Path, limit_bytes: int | None = None) -> bytes:
            if part in str(path):
                raise PermissionError(13, "Permission denied", str(path))
            return disk.read_regular(path, limit_bytes)

        return refuse

    @contextmanager
    def block(part: str) -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(local, "read_regular", refused(part))
            yield

    return block


def content(outputs: Location) -> dict[str, str]:
    found = objects(outputs) if isinstance(outputs, Address) else hashes(outputs)
    return {name: version for name, version in found.items() if not name.startswith((".staging", "data/"))}


FILES = [f"runs/{OLD.run_id}/manifest.json", f"{OLD.run_id}/summary"]


@pytest.mark.parametrize("part", FILES)
def test_verify_says_what_cannot_be_read_goes_on_and_repairs_nothing(
    part: str, outputs: Location, unreadable: Unreadable
) -> None:
    before = content(outputs)
    for words in (["verify"], ["verify", "--repair"]):
        with unreadable(part):
            found = CliRunner().invoke(app, [*words, "--outputs", str(outputs)])
        assert found.exit_code == 5, found.output
        assert f"{OLD.run_id}: cannot be read\n" in found.stdout
        assert f"{NEW.run_id}: verified\n" in found.stdout
        assert "damaged" not in found.stdout.replace(", 0 damaged", "")
        assert "expected to read everything, got 1 that cannot be read" in found.stderr
        assert content(outputs) == before


@pytest.mark.parametrize("part", FILES)
def test_a_run_that_cannot_be_read_is_not_replaced_by_the_same_run_made_again(
    part: str, outputs: Location, unreadable: Unreadable
) -> None:
    before = content(outputs)
    with staged(outputs, OLD) as (staging, manifest), unreadable(part), pytest.raises(StoreError):
        commit(opened(outputs), staging, manifest)
    assert content(outputs) == before
    assert run_by_id(opened(outputs), OLD.run_id).problems() == []


def test_a_verdict_that_cannot_be_read_is_not_moved_away(outputs: Location, unreadable: Unreadable) -> None:
    before = content(outputs)
    for part in ("verdict.json", "gates"):
        with unreadable(part), pytest.raises(StoreError):
            sound_verdict(opened(outputs), OLD.run_id, "0" * 12)
    assert content(outputs) == before


@pytest.mark.parametrize("part", ["verdict.json", "gates", f"counted/{OLD.run_id}"])
def test_the_maintenance_names_what_cannot_be_read_and_does_not_call_it_damaged(
    part: str, outputs: Location, unreadable: Unreadable
) -> None:
    with unreadable(part):
        verified = verify_all(opened(outputs))
    line = "records that runs count: 1" if "counted" in part else "verdicts: 0"
    assert [each.line for each in verified if each.unread] == [f"{line} verified, 0 damaged, 1 cannot be read"]
    with pytest.raises(StoreError, match=r"^cannot be read: 1: .*; nothing is known to be damaged"):
        require_sound(verified)


def test_what_is_damaged_comes_before_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for who in (OLD, NEW):
        publish_run(tmp_path, who)
    flip_bit(tmp_path / "runs" / NEW.run_id / "summary.parquet")

    def refuse(path: Path, limit_bytes: int | None = None) -> bytes:
        if OLD.run_id in str(path):
            raise OSError(116, "Stale file handle", str(path))
        return disk.read_regular(path, limit_bytes)

    monkeypatch.setattr(local, "read_regular", refuse)
    with pytest.raises(DamagedError, match=f"^damaged: 1: .*{NEW.run_id}.*`mnist-pipeline verify --repair`"):
        require_sound(verify_all(opened(tmp_path)))


def test_a_run_that_cannot_be_read_keeps_its_rows_and_is_read_again(outputs: Location, unreadable: Unreadable) -> None:
    whole = load_history(str(outputs))
    publish_verdict(outputs, OLD.run_id, "1" * 12, outcome="fail", judged_at=at(5))
    with unreadable(f"runs/{OLD.run_id}"):
        update_views(opened(outputs))
    assert load_history(str(outputs)).equals(whole) is False  # it is read again, and has the verdict
    assert current_views(opened(outputs)).runs["outcome"].to_pylist() == ["fail", None]


def test_views_made_afresh_keep_the_rows_of_a_run_that_cannot_be_read(
    outputs: Location, unreadable: Unreadable
) -> None:
    before = current_views(opened(outputs)).runs["run_id"].to_pylist()
    with unreadable(f"runs/{OLD.run_id}/manifest.json"):
        update_views(opened(outputs), afresh=True)
    assert current_views(opened(outputs)).runs["run_id"].to_pylist() == before


def test_a_view_that_cannot_be_read_is_made_anew(outputs: Location, unreadable: Unreadable) -> None:
    whole = current_views(opened(outputs))
    for part in ("history.parquet", "runs.parquet"):
        with unreadable(part):
            assert current_views(opened(outputs)).runs.equals(whole.runs)


def test_a_run_that_cannot_be_read_is_kept_by_a_prune_and_so_are_all_shards(tmp_path: Path) -> None:
    outputs = tmp_path
    for who in (OLD, NEW):
        publish_run(outputs, who)
    unused = outputs / "shards" / "toy-test-0123456789ab" / "images"
    unused.mkdir(parents=True)
    (unused / "part-00000.parquet").write_bytes(b"1")
    now, retention = datetime.now(UTC) + timedelta(days=400), Retention(keep_days=1, keep_last=1)
    assert len(plan_prune(opened(outputs), retention, timedelta(days=1), now).shards) == 1
    on_disk(run_by_id(opened(outputs), OLD.run_id).folder).rename(outputs / "away")
    loop = outputs / "runs" / OLD.run_id
    loop.symlink_to(loop)
    plan = plan_prune(opened(outputs), retention, timedelta(days=1), now)
    assert {decision.run.name.run_id: decision.action for decision in plan.decisions}[OLD.run_id] == "keep"
    assert plan.shards == ()


def test_a_folder_that_cannot_be_looked_through_is_a_run_and_hides_no_other(tmp_path: Path) -> None:
    publish_run(tmp_path, NEW)
    loop = tmp_path / "runs" / OLD.run_id
    loop.symlink_to(loop)
    assert [run.name.run_id for run in list_runs(opened(tmp_path))] == [OLD.run_id, NEW.run_id]
    found = CliRunner().invoke(app, ["verify", "--outputs", str(tmp_path)])
    assert found.exit_code == 5
    assert f"{OLD.run_id}: cannot be read\n  cannot read {loop}/manifest.json: Too many levels" in found.stdout
    assert f"{NEW.run_id}: verified\n" in found.stdout
    listed = CliRunner().invoke(app, ["runs", "--outputs", str(tmp_path)])
    assert (listed.exit_code, "cannot be read" in listed.stdout) == (0, True)


# Documents of absurd content with fitting checksums


def rewrite(path: Path, checksum: str, **changes: object) -> None:
    document = json.loads(path.read_text()) | changes
    del document[checksum]
    path.write_text(json.dumps({**document, checksum: canonical_sha256(document)}, indent=2) + "\n")


ABSURD: dict[str, tuple[str, str, dict[str, object]]] = {
    "negative totals": (
        f"runs/{OLD.run_id}/manifest.json",
        "manifest_sha256",
        {"totals": {"images": 12, "labelled": -3, "correct": -1, "accuracy": 1.0}},
    ),
    "counts of other totals": (f"runs/{OLD.run_id}/manifest.json", "manifest_sha256", {"calibration": {"a": 1}}),
    "a verdict of the year 1": (
        f"verdicts/{OLD.run_id}/{'0' * 12}/verdict.json",
        "verdict_sha256",
        {"judged_at": "0001-01-01T00:00:00"},
    ),
    "a verdict of files elsewhere": (
        f"verdicts/{OLD.run_id}/{'0' * 12}/verdict.json",
        "verdict_sha256",
        {"files": [{"path": "../../x", "rows": 1, "size_bytes": 1, "sha256": "0" * 64}]},
    ),
    "a record without a time zone": (
        f"counted/{OLD.run_id}.json",
        "counted_sha256",
        {"counted_at": "2026-02-01T00:00:00"},
    ),
    "a mark of the year 9999": (
        f"runs/{OLD.run_id}/pruned.json",
        "pruned_sha256",
        {"pruned_at": "9999-12-31T23:59:59-12:00"},
    ),
    "a mark of another run": (f"runs/{OLD.run_id}/pruned.json", "pruned_sha256", {"run_id": NEW.run_id}),
}


@pytest.mark.parametrize(("name", "checksum", "changes"), ABSURD.values(), ids=ABSURD)
def test_a_document_of_absurd_content_is_damaged_and_stops_no_other_run(
    name: str, checksum: str, changes: dict[str, object], tmp_path: Path
) -> None:
    for who in (OLD, NEW):
        publish_run(tmp_path, who)
    publish_verdict(tmp_path, OLD.run_id)
    if "pruned" in name:
        give_up(tmp_path, OLD.run_id)
    rewrite(tmp_path / name, checksum, **changes)
    update_views(opened(tmp_path), afresh=True)
    assert NEW.run_id in current_views(opened(tmp_path)).runs["run_id"].to_pylist()
    plan_prune(opened(tmp_path), Retention(keep_days=1, keep_last=1), timedelta(days=1), datetime.now(UTC))
    with pytest.raises(DamagedError, match=r"^damaged: 1: "):
        require_sound(verify_all(opened(tmp_path)))


@pytest.mark.parametrize("content", [b"[" * 100_000, b"PAR1", b""])
def test_views_of_any_content_are_made_anew(content: bytes, tmp_path: Path) -> None:
    publish_run(tmp_path, NEW)
    whole = current_views(opened(tmp_path)).runs
    for name in ("history.parquet", "runs.parquet", "latest.json"):
        (tmp_path / name).write_bytes(content)
        update_views(opened(tmp_path))
    assert current_views(opened(tmp_path)).runs.equals(whole)


@pytest.mark.parametrize("versions", ["[" * 100_000, "3", "[1, 2]", "1" * 5000])
def test_views_of_any_versions_are_made_anew(versions: str, tmp_path: Path) -> None:
    publish_run(tmp_path, NEW)
    whole = current_views(opened(tmp_path))
    (tmp_path / "runs.parquet").write_bytes(tables.encode(tables.RUNS, whole.runs, {"versions": versions}))
    assert current_views(opened(tmp_path)).versions == whole.versions
