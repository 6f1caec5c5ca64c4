import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from mnist_pipeline.errors import DamagedError, OutputsError
from mnist_pipeline.runs.layout import PROMOTIONS
from mnist_pipeline.verdicts import promotions
from mnist_pipeline.verdicts.promotions import Promotion, current_promotion, record_promotion
from tests.processes import run_at_once, start_together
from tests.published import flip_bit, identity, on_disk, opened, snapshot


def promotion(number: int = 0, **changes: Any) -> Promotion:
    """To weights whose sha256 tells `number`."""
    fields: dict[str, Any] = {
        "schema_version": "1",
        "weights_sha256": f"{number:064x}",
        "previous_sha256": "f" * 64,
        "run_id": identity().run_id,
        "verdict_id": "0" * 12,
        "outcome": "pass",
        "forced": False,
        "promoted_at": datetime(2026, 2, 1, 2, 30, 0, 123456, UTC),
    }
    return Promotion(**(fields | changes))


def recorded(outputs: Path) -> list[str]:
    return sorted(path.name for path in (outputs / PROMOTIONS).iterdir())


def left(outputs: Path) -> list[str]:
    return [path.name for path in (outputs / ".staging").iterdir()]


def test_without_promotions_none_is_current_and_looking_makes_no_file(tmp_path: Path) -> None:
    assert current_promotion(opened(tmp_path)) is None
    assert list(tmp_path.iterdir()) == []


def test_promotions_are_numbered_and_the_last_is_current(tmp_path: Path) -> None:
    for number in range(1, 13):  # over ten, whose numbers sort otherwise as texts
        path = record_promotion(opened(tmp_path), promotion(number))
        assert path == tmp_path / PROMOTIONS / f"{number:06d}.json"
        assert current_promotion(opened(tmp_path)) == promotion(number)
    assert recorded(tmp_path) == [f"{number:06d}.json" for number in range(1, 13)]
    assert left(tmp_path) == []


@pytest.mark.parametrize("changes", [{}, {"outcome": "fail", "forced": True}, {"architecture": "784-200-10 relu"}])
def test_a_promotion_comes_back_as_it_was_recorded(changes: dict[str, Any], tmp_path: Path) -> None:
    path = record_promotion(opened(tmp_path), promotion(**changes))
    assert current_promotion(opened(tmp_path)) == promotion(**changes)
    assert on_disk(path).read_bytes() == promotion(**changes).to_bytes()


def test_an_outcome_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="Input should be 'pass', 'fail', 'inconclusive' or 'none'"):
        promotion(outcome="maybe")


def test_recording_changes_no_earlier_promotion(tmp_path: Path) -> None:
    record_promotion(opened(tmp_path), promotion(1))
    before = snapshot(tmp_path)
    record_promotion(opened(tmp_path), promotion(2))
    after = snapshot(tmp_path)
    assert {name: after[name] for name in before} == before


def test_a_number_after_a_gap_is_after_all_others(tmp_path: Path) -> None:
    on_disk(record_promotion(opened(tmp_path), promotion(1))).rename(tmp_path / PROMOTIONS / "000041.json")
    assert record_promotion(opened(tmp_path), promotion(2)).name == "000042.json"
    assert current_promotion(opened(tmp_path)) == promotion(2)


def test_what_is_not_named_like_a_promotion_is_none(tmp_path: Path) -> None:
    record_promotion(opened(tmp_path), promotion(1))
    for name in ("000009.json.bak", "9.json", ".000009.json", "readme", "0000009.json", "000009.JSON", "latest.json"):
        (tmp_path / PROMOTIONS / name).write_text("rubbish")
    assert current_promotion(opened(tmp_path)) == promotion(1)
    assert record_promotion(opened(tmp_path), promotion(2)).name == "000002.json"


@pytest.mark.parametrize("position", [0, 30, 200, -2])
def test_a_damaged_promotion_is_refused_and_no_earlier_one_takes_its_place(position: int, tmp_path: Path) -> None:
    record_promotion(opened(tmp_path), promotion(1))
    path = record_promotion(opened(tmp_path), promotion(2))
    flip_bit(path, position)
    with pytest.raises(DamagedError, match=f"^{path}: expected a promotion"):
        current_promotion(opened(tmp_path))
    assert record_promotion(opened(tmp_path), promotion(3)).name == "000003.json"
    assert current_promotion(opened(tmp_path)) == promotion(3)


def test_a_promotion_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = record_promotion(opened(tmp_path), promotion(1))
    on_disk(path).unlink()
    on_disk(path).mkdir()
    with pytest.raises(DamagedError, match=rf"^{path}: expected a promotion, got no file$"):
        current_promotion(opened(tmp_path))


def test_of_two_at_the_same_time_one_comes_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The other one records after we looked for the last number and before we take ours.
    linking = os.link

    def late(ready: Path, path: Path) -> None:
        monkeypatch.undo()
        assert record_promotion(opened(tmp_path), promotion(2)) == path
        linking(ready, path)

    monkeypatch.setattr(os, "link", late)
    assert record_promotion(opened(tmp_path), promotion(1)).name == "000002.json"
    assert current_promotion(opened(tmp_path)) == promotion(1)
    assert left(tmp_path) == []


def test_threads_at_the_same_time_get_different_numbers(tmp_path: Path) -> None:
    together = Barrier(8)

    def record(number: int) -> str:
        together.wait(60)
        return record_promotion(opened(tmp_path), promotion(number)).name

    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(record, range(8)))
    assert sorted(names) == recorded(tmp_path) == [f"{number:06d}.json" for number in range(1, 9)]
    for number, name in enumerate(names):
        data = (tmp_path / PROMOTIONS / name).read_bytes()
        assert Promotion.from_bytes(data, name) == promotion(number)
    assert left(tmp_path) == []


def record_ten(outputs: Path) -> list[str]:
    start_together()
    return [record_promotion(opened(outputs), promotion(number)).name for number in range(10)]


def test_processes_at_the_same_time_get_different_numbers(tmp_path: Path) -> None:
    said = run_at_once(record_ten, [(tmp_path,)] * 3)
    expected = [f"{number:06d}.json" for number in range(1, 31)]
    assert sorted(name for names in said for name in names) == recorded(tmp_path) == expected
    assert [names == sorted(names) for names in said] == [True] * 3
    assert left(tmp_path) == []


def test_a_promotion_has_reached_the_disk_when_it_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    linking, syncing = os.link, os.fsync

    def note_link(ready: Path, path: Path) -> None:
        steps.append("link")
        linking(ready, path)

    def note_sync(handle: int) -> None:
        places = {"outputs": tmp_path, "promotions": tmp_path / PROMOTIONS}
        found = os.fstat(handle)
        named = [name for name, place in places.items() if place.exists() and os.path.samestat(place.stat(), found)]
        steps.append(f"sync {named[0] if named else 'file'}")
        syncing(handle)

    monkeypatch.setattr(os, "link", note_link)
    monkeypatch.setattr(os, "fsync", note_sync)
    record_promotion(opened(tmp_path), promotion())
    assert steps == ["sync outputs", "sync file", "link", "sync promotions"]


def test_a_promotion_that_cannot_be_recorded_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(ready: Path, path: Path) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OutputsError, match=rf"^cannot create {tmp_path}/promotions/000001.json: Operation not perm"):
        record_promotion(opened(tmp_path), promotion())
    assert current_promotion(opened(tmp_path)) is None
    assert left(tmp_path) == []
    monkeypatch.undo()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputsError, match=r"^cannot create .*file/promotions/000001\.json: .*then run again"):
        promotions.record_promotion(opened(tmp_path / "file"), promotion())
