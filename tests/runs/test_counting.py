import logging
from pathlib import Path

import pytest

from mnist_pipeline.errors import DamagedError
from mnist_pipeline.maintenance.verification import check_counted
from mnist_pipeline.pipeline.decisions import decide
from mnist_pipeline.runs.counting import counted_at, read_counted
from mnist_pipeline.runs.publishing import count
from tests.published import at, flip_bit, hashes, identity, opened, publish_run

WHO, OTHER = identity(), identity(weights_sha256="9" * 64)


def test_a_run_counts_by_its_record_and_without_one_not(tmp_path: Path) -> None:
    night = publish_run(tmp_path, WHO, published_at=at(3))
    by_hand = publish_run(tmp_path, OTHER, counts=False)
    assert counted_at(opened(tmp_path), night) == at(3)
    assert counted_at(opened(tmp_path), by_hand) is None


def test_a_run_that_was_accepted_counts_since_then_and_a_withdrawn_one_never(tmp_path: Path) -> None:
    outputs, night = opened(tmp_path), publish_run(tmp_path, WHO)
    by_hand = publish_run(tmp_path, OTHER, counts=False, published_at=at(4))
    decision = decide(outputs, by_hand, "accepted", "as meant")
    assert counted_at(outputs, by_hand) == decision.decided_at
    decide(outputs, night, "withdrawn", "wrong camera")
    assert counted_at(outputs, night) is None


def test_a_night_that_finds_its_run_makes_it_that_of_the_date_and_the_second_time_writes_nothing(
    tmp_path: Path,
) -> None:
    outputs, night = opened(tmp_path), publish_run(tmp_path, WHO, published_at=at(3))
    publish_run(tmp_path, OTHER, published_at=at(4))
    count(outputs, WHO.run_id)
    since = counted_at(outputs, night)
    assert since is not None
    assert since > at(4)
    before = hashes(tmp_path)
    count(outputs, WHO.run_id)
    assert hashes(tmp_path) == before


def test_a_damaged_record_does_not_count_and_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    outputs, run = opened(tmp_path), publish_run(tmp_path, WHO)
    path = tmp_path / "counted" / f"{WHO.run_id}.json"
    flip_bit(path, 30)
    with caplog.at_level(logging.WARNING):
        assert counted_at(outputs, run) is None
    assert f"taken for a run made by hand: {path}: expected the record that a run counts" in caplog.text
    ((location, problem),) = check_counted(outputs)
    assert location == path
    assert problem is not None
    assert str(problem).endswith("run its date again, or accept the run")
    count(outputs, WHO.run_id)
    assert [problem for _, problem in check_counted(outputs)] == [None]


def test_the_record_of_another_run_is_refused(tmp_path: Path) -> None:
    publish_run(tmp_path, WHO)
    path = tmp_path / "counted" / f"{WHO.run_id}.json"
    path.rename(path.with_name(f"{OTHER.run_id}.json"))
    with pytest.raises(DamagedError, match=f"expected the record of {OTHER.run_id}, got {WHO.run_id}'s; run its date"):
        read_counted(opened(tmp_path), OTHER.run_id)


def test_a_run_of_which_nothing_is_known_counts_before_all_others_of_its_date(tmp_path: Path) -> None:
    run = publish_run(tmp_path, WHO, counts=False)
    (tmp_path / "runs" / WHO.run_id / "manifest.json").write_bytes(b"damaged")
    since = counted_at(opened(tmp_path), run)
    assert since is not None
    assert since < at(1)
