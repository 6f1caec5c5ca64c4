"""Verdicts on small published runs, whose predictions are drawn from a seed."""

import errno
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from mnist_pipeline import tables
from mnist_pipeline.core.comparison import Unpaired, holm
from mnist_pipeline.core.gates import DEFAULT_GATES, Gates, Outcome
from mnist_pipeline.core.images import NO_LABEL
from mnist_pipeline.errors import DamagedError, OutputsError, RunNotFoundError, SettingsError
from mnist_pipeline.pipeline import judging
from mnist_pipeline.pipeline.decisions import decide
from mnist_pipeline.pipeline.judging import BASELINE, EARLIER, LAST_PASSED, judge_run
from mnist_pipeline.runs import publishing
from mnist_pipeline.runs.lookup import run_by_id
from mnist_pipeline.verdicts.baselines import set_baseline
from mnist_pipeline.verdicts.reading import Verdict, read_verdict
from mnist_pipeline.verdicts.records import commit_verdict, find_verdict, newest_verdict, staged_verdict
from mnist_pipeline.views import current_views, update_views
from tests.published import (
    flip_bit,
    give_up,
    hashes,
    identity,
    left_over,
    opened,
    publish_run,
    snapshot,
    staged,
    verdict_document,
)

PROJECT = Path(__file__).parents[2]
KEPT, BROKEN = Gates(min_images=1), Gates(min_images=1_000_000)
UNSURE = Gates(min_accuracy=0.1)  # of so few images nothing is certain
OTHER_IMAGES: dict[str, Any] = {"images_sha256": "a" * 64}
OTHER_WEIGHTS: dict[str, Any] = {"weights_sha256": "b" * 64}


def publish(
    outputs: Path,
    run_date: str = "2026-01-31",
    *,
    seed: int = 0,
    hour: int = 0,
    labels_of: NDArray[Any] | None = None,
    **changes: Any,
) -> str:
    """The run_id of a run of 12 images, or as `changes` have it."""
    how: dict[str, Any] = {"seed": seed, "published_at": datetime(2026, 2, 1, hour, tzinfo=UTC), "labels_of": labels_of}
    return publish_run(outputs, identity(run_date, **changes), **how).name.run_id


def judged(outputs: Path, run_date: str, gates: Gates = KEPT, **how: Any) -> str:
    """The run_id of a run that is published and judged."""
    run_id = publish(outputs, run_date, **how)
    judge_run(opened(outputs), run_id, gates)
    return run_id


def compared_with(verdict: Verdict) -> dict[str, str]:
    return {reference.against: reference.run_id for reference in verdict.references}


def table(outputs: Path, verdict: Verdict, which: tables.Table) -> pd.DataFrame:
    published = find_verdict(opened(outputs), verdict.run_id, verdict.verdict_id)
    assert published is not None
    frame: pd.DataFrame = published.read(which).to_pandas()
    return frame


def newest(outputs: Path, run_id: str) -> Verdict | None:
    published = newest_verdict(opened(outputs), run_by_id(opened(outputs), run_id).manifest().content)
    return None if published is None else read_verdict(published)


def predictions(outputs: Path, run_id: str) -> pd.DataFrame:
    frame: pd.DataFrame = run_by_id(opened(outputs), run_id).read(tables.PREDICTIONS).to_pandas()
    return frame.set_index("image_id")


def damage(outputs: Path, run_id: str) -> None:
    flip_bit(outputs / "runs" / run_id / "predictions" / "part-00001.parquet")


# Judging again


def test_the_same_run_judged_again_is_the_same_verdict_and_no_file_is_touched(tmp_path: Path) -> None:
    judged(tmp_path, "2026-01-30")
    tonight = publish(tmp_path)
    first = judge_run(opened(tmp_path), tonight, KEPT)
    before = snapshot(tmp_path)
    again = judge_run(opened(tmp_path), tonight, KEPT)
    assert (first.new, again.new) == (True, False)
    assert again == replace(first, new=False)
    assert snapshot(tmp_path) == before
    assert left_over(tmp_path) == []


@pytest.mark.parametrize(
    "gates", [replace(KEPT, alpha=0.002), BROKEN, replace(KEPT, digit_accuracy={3: 0.1}), replace(KEPT, max_nll=1)]
)
def test_other_gates_give_another_verdict_beside_the_first(gates: Gates, tmp_path: Path) -> None:
    run_id = publish(tmp_path)
    first = judge_run(opened(tmp_path), run_id, KEPT)
    before = snapshot(first.folder)
    second = judge_run(opened(tmp_path), run_id, gates)
    assert second.new
    assert second.folder.parent == first.folder.parent
    assert second.verdict_id != first.verdict_id
    assert snapshot(first.folder) == before
    assert judge_run(opened(tmp_path), run_id, gates) == replace(second, new=False)


def test_another_baseline_gives_another_verdict_beside_the_first(tmp_path: Path) -> None:
    older, newer = publish(tmp_path, "2026-01-29"), publish(tmp_path, "2026-01-30", seed=1, **OTHER_WEIGHTS)
    tonight = publish(tmp_path)
    found = [judge_run(opened(tmp_path), tonight, KEPT)]
    for pinned in (older, newer):
        set_baseline(opened(tmp_path), "toy", "test", pinned)
        found.append(judge_run(opened(tmp_path), tonight, KEPT))
    set_baseline(opened(tmp_path), "toy", "test", None)
    assert [compared_with(verdict) for verdict in found] == [{}, {BASELINE: older}, {BASELINE: newer}]
    assert len({verdict.verdict_id for verdict in found}) == 3
    assert judge_run(opened(tmp_path), tonight, KEPT) == replace(found[0], new=False)


def test_the_same_gates_find_the_same_verdict_from_any_order_of_their_keys(tmp_path: Path) -> None:
    run_id = publish(tmp_path)
    first = judge_run(opened(tmp_path), run_id, Gates(digit_accuracy={9: 0.1, 3: 0.0}))
    assert not judge_run(opened(tmp_path), run_id, Gates(digit_accuracy={3: 0.0, 9: 0.1})).new
    assert [result.bound for result in first.results] == [0.0, 0.1]


# What a run is compared with


def test_the_last_passed_run_is_the_newest_by_date_then_by_publication(tmp_path: Path) -> None:
    judged(tmp_path, "2026-01-28", hour=9)  # published last, for the oldest night
    judged(tmp_path, "2026-01-29", hour=1)
    late = judged(tmp_path, "2026-01-29", hour=5, **OTHER_WEIGHTS)
    judged(tmp_path, "2026-01-29", hour=3, images_sha256="c" * 64)
    judged(tmp_path, "2026-02-01", hour=0)  # a later night
    tonight = publish(tmp_path)
    assert compared_with(judge_run(opened(tmp_path), tonight, KEPT)) == {LAST_PASSED: late}


def test_of_the_same_night_only_what_was_published_before_is_a_reference(tmp_path: Path) -> None:
    early = judged(tmp_path, "2026-01-31", hour=1)
    judged(tmp_path, "2026-01-31", hour=3, **OTHER_WEIGHTS)
    tonight = publish(tmp_path, hour=2, images_sha256="c" * 64)
    assert compared_with(judge_run(opened(tmp_path), tonight, KEPT)) == {LAST_PASSED: early}


@pytest.mark.parametrize(("gates", "outcome"), [(BROKEN, "fail"), (UNSURE, "inconclusive"), (None, None)])
def test_a_run_that_did_not_pass_is_no_reference(gates: Gates | None, outcome: Outcome | None, tmp_path: Path) -> None:
    good = judged(tmp_path, "2026-01-29")
    bad = publish(tmp_path, "2026-01-30")
    if gates:
        assert judge_run(opened(tmp_path), bad, gates).outcome == outcome
    assert compared_with(judge_run(opened(tmp_path), publish(tmp_path), KEPT)) == {LAST_PASSED: good}


LOSSES = Gates(max_loss=1)  # on a first night there is nothing that it can judge


def test_where_nothing_was_judged_the_verdict_is_none_everywhere(tmp_path: Path) -> None:
    first = publish(tmp_path, "2026-01-30", labels_sha256=None)
    verdict = judge_run(opened(tmp_path), first, DEFAULT_GATES, gates_chosen=False)
    assert (verdict.outcome, verdict.results, verdict.fails(DEFAULT_GATES)) == ("none", (), False)
    assert verdict.notes[0].startswith(
        "no gates are chosen for toy: only certain losses, and changes without a cause, fail it; "
    )
    changed = publish(tmp_path, seed=1, labels_sha256=None, **OTHER_WEIGHTS)
    verdict = judge_run(opened(tmp_path), changed, DEFAULT_GATES, gates_chosen=False)
    assert (verdict.outcome, compared_with(verdict)) == ("none", {EARLIER: first})
    count = verdict.references[0].changed
    assert count
    assert verdict.notes[-1] == (
        f"not judged: {count} of 12 predictions changed against the earlier run, whose weights were others"
    )
    assert current_views(opened(tmp_path)).runs["outcome"].to_pylist() == ["none", "none"]


def test_a_data_set_without_gates_is_compared_with_the_newest_that_did_not_fail(tmp_path: Path) -> None:
    def tonight(run_date: str, hour: int, gates: Gates) -> Verdict:
        return judge_run(opened(tmp_path), publish(tmp_path, run_date, hour=hour), gates, gates_chosen=False)

    first = tonight("2026-01-27", 1, DEFAULT_GATES)
    second = tonight("2026-01-28", 2, DEFAULT_GATES)
    assert (first.outcome, second.outcome, compared_with(second)) == ("none", "pass", {EARLIER: first.run_id})
    tonight("2026-01-29", 3, BROKEN)
    unjudged = tonight("2026-01-30", 4, Gates(max_flips_unchanged=None))
    assert (unjudged.outcome, compared_with(unjudged)) == ("none", {LAST_PASSED: second.run_id})
    assert compared_with(tonight("2026-01-31", 5, DEFAULT_GATES)) == {EARLIER: unjudged.run_id}


def test_a_data_set_with_gates_is_compared_with_one_not_judged_only_until_one_has_passed(tmp_path: Path) -> None:
    def tonight(run_date: str, hour: int, gates: Gates) -> Verdict:
        return judge_run(opened(tmp_path), publish(tmp_path, run_date, hour=hour), gates)

    first, second = tonight("2026-01-28", 1, LOSSES), tonight("2026-01-29", 2, LOSSES)
    assert (first.outcome, second.outcome, compared_with(second)) == ("none", "pass", {EARLIER: first.run_id})
    assert tonight("2026-01-30", 3, Gates(max_flips_unchanged=None)).outcome == "none"
    assert compared_with(tonight("2026-01-31", 4, LOSSES)) == {LAST_PASSED: second.run_id}


def test_a_pass_of_an_earlier_version_that_no_gate_had_judged_is_none(tmp_path: Path) -> None:
    run_id = publish(tmp_path)
    content = run_by_id(opened(tmp_path), run_id).manifest().content
    with staged_verdict(opened(tmp_path), run_id, "0" * 12) as staging:
        for each in (tables.COMPARISON, tables.GATES):
            staging.add(each, each.schema.empty_table())
        commit_verdict(
            opened(tmp_path), staging, verdict_document(staging, run_id, "0" * 12, "pass", str(content.sha256))
        )
    assert current_views(opened(tmp_path)).runs["outcome"].to_pylist() == ["none"]
    found = newest(tmp_path, run_id)
    assert found is not None
    assert found.outcome == "none"


@pytest.mark.parametrize(("order", "passes"), [((KEPT, BROKEN), False), ((BROKEN, KEPT), True)])
def test_the_newest_verdict_on_a_run_says_whether_it_passed(
    order: tuple[Gates, Gates], passes: bool, tmp_path: Path
) -> None:
    run_id = publish(tmp_path, "2026-01-30")
    for gates in order:
        judge_run(opened(tmp_path), run_id, gates)
    assert compared_with(judge_run(opened(tmp_path), publish(tmp_path), KEPT)) == (
        {LAST_PASSED: run_id} if passes else {}
    )


def test_runs_of_another_data_set_or_split_are_no_references(tmp_path: Path) -> None:
    judged(tmp_path, "2026-01-30", dataset="other")
    judged(tmp_path, "2026-01-30", split="train")
    set_baseline(opened(tmp_path), "other", "test", "2026-01-30-other-test-000000000000")
    assert compared_with(judge_run(opened(tmp_path), publish(tmp_path), KEPT)) == {}


def test_a_night_filled_in_later_is_held_to_what_lies_before_it_and_changes_no_later_verdict(tmp_path: Path) -> None:
    first = judged(tmp_path, "2026-01-29", hour=1)
    last = judged(tmp_path, "2026-01-31", hour=2)
    before = snapshot(tmp_path / "verdicts" / last)
    filled = publish(tmp_path, "2026-01-30", hour=3)
    assert compared_with(judge_run(opened(tmp_path), filled, KEPT)) == {LAST_PASSED: first}
    assert snapshot(tmp_path / "verdicts" / last) == before
    assert compared_with(judge_run(opened(tmp_path), publish(tmp_path, "2026-02-01", hour=4), KEPT)) == {
        LAST_PASSED: last
    }


def test_without_an_earlier_run_the_verdict_says_so_and_compares_nothing(tmp_path: Path) -> None:
    verdict = judge_run(opened(tmp_path), publish(tmp_path), KEPT)
    assert verdict.outcome == "pass"
    assert verdict.notes == (
        "compared with nothing: no earlier run of toy/test has passed, and no baseline is set",
    )  # fmt: skip
    assert table(tmp_path, verdict, tables.COMPARISON).empty
    assert table(tmp_path, verdict, tables.FLIPS).empty


def test_a_baseline_is_no_reference_of_itself(tmp_path: Path) -> None:
    pinned = publish(tmp_path)
    set_baseline(opened(tmp_path), "toy", "test", pinned)
    assert compared_with(judge_run(opened(tmp_path), pinned, KEPT)) == {}


def test_a_run_may_be_the_last_that_passed_and_the_baseline_too(tmp_path: Path) -> None:
    pinned = judged(tmp_path, "2026-01-30")
    set_baseline(opened(tmp_path), "toy", "test", pinned)
    verdict = judge_run(opened(tmp_path), publish(tmp_path, seed=1, **OTHER_WEIGHTS), replace(KEPT, max_loss=1))
    assert compared_with(verdict) == {LAST_PASSED: pinned, BASELINE: pinned}
    assert [(result.gate, result.against) for result in verdict.results] == [
        ("min_images", None),
        ("max_loss", LAST_PASSED),
        ("max_loss", BASELINE),
    ]
    flips = table(tmp_path, verdict, tables.FLIPS)
    assert flips["against"].value_counts().to_dict() == {
        LAST_PASSED: verdict.references[0].changed,
        BASELINE: verdict.references[1].changed,
    }
    assert [len(reference.comparisons) for reference in verdict.references] == [11, 11]


# References that cannot be compared with


def gone(outputs: Path, run_id: str) -> None:
    (outputs / "runs" / run_id).rename(outputs / "elsewhere")


def without_manifest(outputs: Path, run_id: str) -> None:
    (outputs / "runs" / run_id / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (damage, "it does not verify: .*part-00001.parquet: expected sha256"),
        (gone, "it is no longer published"),
        (without_manifest, "it does not verify: .*manifest.json: expected a manifest"),
    ],
)
def test_a_reference_that_cannot_be_read_makes_the_verdict_inconclusive_and_is_named(
    spoil: Callable[[Path, str], None], problem: str, tmp_path: Path
) -> None:
    pinned = publish(tmp_path, "2026-01-30")
    set_baseline(opened(tmp_path), "toy", "test", pinned)
    spoil(tmp_path, pinned)
    gates = Gates(max_loss=1, max_digit_loss=1, same_images=True)
    verdict = judge_run(opened(tmp_path), publish(tmp_path), gates)
    assert verdict.outcome == "inconclusive"
    assert {result.gate for result in verdict.results} == {
        "same_images",
        "max_flips_unchanged",
        "max_loss",
        "max_digit_loss",
    }
    for result in verdict.results:
        assert pd.Series(result.reason).str.match(f"the baseline run {pinned} cannot be compared with: {problem}").all()
    assert table(tmp_path, verdict, tables.FLIPS).empty
    assert not verdict.fails(gates)
    assert verdict.fails(replace(gates, inconclusive="fail"))


def test_the_last_passed_run_if_damaged_makes_the_verdict_inconclusive(tmp_path: Path) -> None:
    before = judged(tmp_path, "2026-01-30")
    damage(tmp_path, before)
    verdict = judge_run(opened(tmp_path), publish(tmp_path), KEPT)
    assert verdict.outcome == "inconclusive"
    (reference,) = verdict.references
    assert (reference.run_id, reference.changed, reference.comparisons) == (before, None, ())


def test_a_damaged_or_pruned_run_stands_back_for_an_older_one_that_has_passed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, pruned, bad = judged(tmp_path, "2026-01-28"), judged(tmp_path, "2026-01-29"), judged(tmp_path, "2026-01-30")
    give_up(tmp_path, pruned)
    damage(tmp_path, bad)
    with caplog.at_level(logging.WARNING):
        verdict = judge_run(opened(tmp_path), publish(tmp_path), KEPT)
    assert compared_with(verdict) == {LAST_PASSED: good}
    assert f"run {bad} cannot be a reference: it does not verify: " in caplog.text
    assert f"run {pruned} cannot be a reference: its predictions were pruned" in caplog.text


@pytest.mark.parametrize("noticed", [True, False], ids=["by the views", "by its checksum alone"])
def test_a_run_whose_manifest_is_damaged_is_passed_over_with_a_warning(
    noticed: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = judged(tmp_path, "2026-01-29"), judged(tmp_path, "2026-01-30")
    flip_bit(path := tmp_path / "runs" / bad / "manifest.json")
    if noticed:
        path.touch()
    with caplog.at_level(logging.WARNING):
        verdict = judge_run(opened(tmp_path), publish(tmp_path), KEPT)
    assert compared_with(verdict) == {LAST_PASSED: good}
    passed_over = "left out of history, runs and latest" if noticed else f"run {bad} cannot be a reference: it does not"
    assert passed_over in caplog.text
    assert f"{path}: expected a run's manifest" in caplog.text


def test_a_baseline_of_a_version_that_kept_no_counts_is_a_reference_that_cannot_be_compared_with(
    tmp_path: Path,
) -> None:
    with staged(tmp_path, identity("2026-01-30", **OTHER_IMAGES)) as (staging, manifest):
        assert publishing.commit(
            opened(tmp_path), staging, manifest.model_copy(update={"tally": None, "calibration": None})
        )
    set_baseline(opened(tmp_path), "toy", "test", manifest.run_id)
    verdict = judge_run(opened(tmp_path), publish(tmp_path), Gates(max_loss=1))
    assert verdict.outcome == "inconclusive"
    assert str(verdict.references[0].problem).startswith(f"run {manifest.run_id}: expected its counts in the manifest")


# What is refused


def test_a_run_that_is_not_there_is_not_judged(tmp_path: Path) -> None:
    with pytest.raises(RunNotFoundError, match="2026-01-31-toy-test-0123456789ab"):
        judge_run(opened(tmp_path), "2026-01-31-toy-test-0123456789ab", KEPT)
    assert not (tmp_path / "verdicts").exists()


@pytest.mark.parametrize("reference", [{}, OTHER_IMAGES, None], ids=["same images", "other images", "no reference"])
def test_a_damaged_run_is_not_judged_whatever_it_is_compared_with(
    reference: dict[str, Any] | None, tmp_path: Path
) -> None:
    if reference is not None:
        judged(tmp_path, "2026-01-30", **reference)
    tonight = publish(tmp_path)
    damage(tmp_path, tonight)
    with pytest.raises(
        DamagedError, match=f"{tonight}: expected it as it was published, got .*part-00001.*; run --run"
    ):
        judge_run(opened(tmp_path), tonight, KEPT)
    assert not (tmp_path / "verdicts" / tonight).exists()


@pytest.mark.parametrize("name", ["verdict.json", "gates.parquet", "comparison.parquet", "flips.parquet"])
def test_a_damaged_verdict_is_passed_over_and_given_again(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = publish(tmp_path)
    first, second = judge_run(opened(tmp_path), run_id, KEPT), judge_run(opened(tmp_path), run_id, BROKEN)
    assert newest(tmp_path, run_id) == replace(second, new=False)
    flip_bit(second.folder / name)
    damaged = hashes(second.folder)
    if name == "verdict.json":
        with caplog.at_level(logging.WARNING):
            assert newest(tmp_path, run_id) == replace(first, new=False)
        assert "left out: " in caplog.text
    else:
        with pytest.raises(DamagedError, match=f"{name}: expected sha256"):
            table(tmp_path, second, {"gates": tables.GATES, "flips": tables.FLIPS}.get(name[:5], tables.COMPARISON))
    assert judge_run(opened(tmp_path), run_id, BROKEN) == second
    (aside,) = (tmp_path / "quarantine" / "verdicts" / run_id).iterdir()
    assert hashes(aside) == damaged
    assert f"{second.folder} is moved to quarantine in {aside}: " in caplog.text


def test_a_run_without_a_verdict_has_no_newest(tmp_path: Path) -> None:
    assert newest(tmp_path, publish(tmp_path)) is None


def test_after_a_verdict_that_cannot_be_written_judging_again_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = publish(tmp_path)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputsError, match=r"No space left .*then run again"):
            judge_run(opened(tmp_path), run_id, KEPT)
    assert newest(tmp_path, run_id) is None
    assert judge_run(opened(tmp_path), run_id, KEPT).new
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("changes", [{"dataset": "other"}, {"split": "train"}])
def test_runs_of_different_data_sets_are_not_compared(changes: dict[str, Any], tmp_path: Path) -> None:
    first, second = (publish_run(tmp_path, identity(**how)) for how in ({}, changes))
    with pytest.raises(
        SettingsError, match=r"expected two of the same data set and split, got .*; compare runs of one"
    ):
        judging.compare(first, second, "given")


# What is compared, and how


def naive_flips(before: pd.DataFrame, now: pd.DataFrame) -> pd.DataFrame:
    both = before.add_suffix("_before").join(now.add_suffix("_now"))
    both = both[both["prediction_before"] != both["prediction_now"]]
    label = both["label_now"]
    direction = pd.Series("still wrong", both.index)
    direction[both["prediction_before"] == label] = "lost"
    direction[both["prediction_now"] == label] = "gained"
    columns = ["label_now", "prediction_before", "prediction_now", "confidence_before", "confidence_now"]
    return both[columns].assign(direction=direction).reset_index()


@pytest.mark.parametrize(("images", "shard_rows"), [(12, 5), (12, 12), (997, 100), (997, 333)])
def test_every_flip_is_one_that_two_tables_side_by_side_show_whatever_the_shards(
    images: int, shard_rows: int, tmp_path: Path
) -> None:
    before = judged(tmp_path, "2026-01-30", seed=1, images=images, shard_rows=100)
    tonight = publish(tmp_path, images=images, shard_rows=shard_rows, **OTHER_WEIGHTS)
    verdict = judge_run(opened(tmp_path), tonight, KEPT)
    flips = table(tmp_path, verdict, tables.FLIPS)
    expected = naive_flips(predictions(tmp_path, before), predictions(tmp_path, tonight))
    ours = ["image_id", "label", "before", "now", "confidence_before", "confidence_now", "direction"]
    assert len(expected) > images / 2
    assert flips[ours].to_numpy().tolist() == expected.to_numpy().tolist()
    assert verdict.references[0].changed == len(expected)
    assert {*flips["run_id"]} == {tonight}
    assert {*flips["reference_run_id"]} == {before}
    assert {*flips["verdict_id"]} == {verdict.verdict_id}


def test_the_comparison_table_counts_what_two_tables_side_by_side_show(tmp_path: Path) -> None:
    before = judged(tmp_path, "2026-01-30", seed=1, images=500)
    tonight = publish(tmp_path, images=500, **OTHER_WEIGHTS)
    rows = table(tmp_path, judge_run(opened(tmp_path), tonight, KEPT), tables.COMPARISON)
    old, new = predictions(tmp_path, before), predictions(tmp_path, tonight)
    assert rows["digit"].isna().tolist() == [True] + [False] * 10
    for row in rows.to_dict("records"):
        ours = new["label"].notna() if pd.isna(row["digit"]) else new["label"] == row["digit"]
        was, is_now = old["correct"][ours].astype(bool), new["correct"][ours].astype(bool)
        assert row["images"] == row["images_before"] == len(was)
        assert (row["correct_before"], row["correct"]) == (was.sum(), is_now.sum())
        assert (row["lost"], row["gained"]) == ((was & ~is_now).sum(), (~was & is_now).sum())
        assert row["both_right"] == (was & is_now).sum()
        assert row["difference"] == pytest.approx(is_now.mean() - was.mean())
        assert row["low"] <= row["difference"] <= row["high"]
        assert row["method"] == "McNemar exact, Tango"
    assert rows["p_holm"].tolist()[1:] == holm(rows["p"].tolist()[1:])
    assert pd.isna(rows["p_holm"][0])


def test_the_same_images_and_weights_have_no_flips(tmp_path: Path) -> None:
    judged(tmp_path, "2026-01-30")
    verdict = judge_run(opened(tmp_path), publish(tmp_path), KEPT)
    assert (verdict.references[0].same_images, verdict.references[0].same_weights) == (True, True)
    assert verdict.references[0].changed == 0
    assert table(tmp_path, verdict, tables.FLIPS).empty
    assert [(result.gate, result.outcome) for result in verdict.results] == [
        ("min_images", "pass"),
        ("max_flips_unchanged", "pass"),
    ]


def test_other_predictions_from_the_same_images_and_weights_fail_unless_that_gate_is_off(tmp_path: Path) -> None:
    judged(tmp_path, "2026-01-30")
    tonight = publish(tmp_path, seed=1)
    verdict = judge_run(opened(tmp_path), tonight, KEPT)
    *_, result = verdict.results
    assert (result.gate, result.outcome, result.value) == ("max_flips_unchanged", "fail", verdict.references[0].changed)
    assert "the stack has changed: compare the versions in the two manifests" in result.reason
    assert judge_run(opened(tmp_path), tonight, replace(KEPT, max_flips_unchanged=None)).outcome == "pass"
    assert judge_run(opened(tmp_path), tonight, replace(KEPT, max_flips_unchanged=12)).outcome == "pass"


@pytest.mark.parametrize("changes", [OTHER_IMAGES, {**OTHER_IMAGES, "images": 40}])
def test_different_images_are_compared_as_two_samples_and_nothing_flips(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    before = judged(tmp_path, "2026-01-30", seed=1, images=30)
    verdict = judge_run(
        opened(tmp_path), publish(tmp_path, **({"images": 30} | changes)), Gates(max_loss=1, same_images=True)
    )
    (reference,) = verdict.references
    assert (reference.run_id, reference.same_images, reference.changed) == (before, False, None)
    assert all(isinstance(line, Unpaired) for line in reference.comparisons)
    assert table(tmp_path, verdict, tables.FLIPS).empty
    rows = table(tmp_path, verdict, tables.COMPARISON)
    assert set(rows["method"]) == {"Fisher exact, Newcombe"}
    assert rows[["both_right", "lost", "gained"]].isna().all(axis=None)
    old, new = predictions(tmp_path, before), predictions(tmp_path, verdict.run_id)
    assert (rows["images_before"][0], rows["images"][0]) == (len(old), len(new))
    assert (rows["correct_before"][0], rows["correct"][0]) == (old["correct"].sum(), new["correct"].sum())
    outcomes = {result.gate: result.outcome for result in verdict.results}
    assert outcomes == {"same_images": "fail", "max_loss": "pass"}


def test_the_same_images_with_other_labels_are_compared_as_others_and_no_pass_is_given(tmp_path: Path) -> None:
    some = np.where(np.arange(12) < 5, np.arange(12) % 10, NO_LABEL)
    judged(tmp_path, "2026-01-30", seed=1, labels_of=some, labels_sha256="a" * 64)
    verdict = judge_run(opened(tmp_path), publish(tmp_path), Gates(same_images=True, max_flips_unchanged=12))
    (reference,) = verdict.references
    assert (reference.same_images, reference.same_labels) == (True, False)
    whole = reference.comparisons[0]
    assert (type(whole), whole.images, whole.images_before) == (Unpaired, 12, 5)
    old, new = (predictions(tmp_path, run_id)["prediction"] for run_id in (reference.run_id, verdict.run_id))
    assert reference.changed == (old != new).sum() > 0
    reasons = {result.gate: (result.outcome, result.reason) for result in verdict.results}
    assert reasons == {"same_images": ("fail", "the labels are not those of the last passed run")}


def test_labels_that_came_later_are_judged_against_a_run_that_has_labels(tmp_path: Path) -> None:
    labelled = judged(tmp_path, "2026-01-29")
    judged(tmp_path, "2026-01-30", labels_sha256=None)
    unlabelled = judged(tmp_path, "2026-01-31", labels_sha256=None)
    verdict = judge_run(opened(tmp_path), publish(tmp_path, hour=1), KEPT)
    assert compared_with(verdict) == {LAST_PASSED: labelled}
    later = judge_run(opened(tmp_path), publish(tmp_path, "2026-02-01", labels_sha256=None), KEPT)
    assert compared_with(later) == {LAST_PASSED: verdict.run_id}
    before, now = (run_by_id(opened(tmp_path), run_id) for run_id in (unlabelled, verdict.run_id))
    found = judging.compare(before, now, "given")
    assert (found.same_images, found.same_labels, found.changed, found.comparisons) == (True, False, 0, ())


@pytest.mark.parametrize("labelled", [1, 11])
def test_a_verdict_notes_of_how_many_images_the_accuracy_is(labelled: int, tmp_path: Path) -> None:
    labels = np.where(np.arange(12) < labelled, 3, NO_LABEL)  # the other digits have no labelled image at all
    run_id = publish(tmp_path, labels_of=labels)
    gates = Gates(min_images=12, min_digit_images=1, min_accuracy=0, min_digit_accuracy=0)
    verdict = judge_run(opened(tmp_path), run_id, gates)
    assert f"accuracy is over {labelled} of 12 images: the others have no label" in verdict.notes
    outcomes = [(result.gate, result.digit, result.outcome) for result in verdict.results if result.outcome == "pass"]
    assert outcomes == [
        ("min_images", None, "pass"),
        ("min_digit_images", 3, "pass"),
        ("min_accuracy", None, "pass"),
        ("min_digit_accuracy", 3, "pass"),
    ]


def test_images_without_labels_are_compared_by_their_predictions_alone(tmp_path: Path) -> None:
    judged(tmp_path, "2026-01-30", seed=1, labels_sha256=None)
    tonight = publish(tmp_path, labels_sha256=None, **OTHER_WEIGHTS)
    gates = Gates(min_images=1, min_digit_images=1, min_accuracy=0.5, max_loss=0.5, max_digit_loss=0.5, max_nll=1)
    verdict = judge_run(opened(tmp_path), tonight, gates)
    assert verdict.notes == ("no labels: correctness cannot be determined",)
    assert verdict.outcome == "inconclusive"
    assert {result.gate for result in verdict.results if result.outcome == "pass"} == {"min_images"}
    assert all("label" in result.reason for result in verdict.results if result.outcome == "inconclusive")
    flips = table(tmp_path, verdict, tables.FLIPS)
    before = compared_with(verdict)[LAST_PASSED]
    changed = predictions(tmp_path, before)["prediction"] != predictions(tmp_path, tonight)["prediction"]
    assert len(flips) == verdict.references[0].changed == changed.sum()
    assert flips[["label", "direction"]].isna().all(axis=None)
    assert table(tmp_path, verdict, tables.COMPARISON).empty


def test_a_digit_without_images_is_not_judged_by_what_cannot_be_known(tmp_path: Path) -> None:
    judged(tmp_path, "2026-01-30", images=5)  # labels 0 to 4
    verdict = judge_run(
        opened(tmp_path),
        publish(tmp_path, images=5, **OTHER_WEIGHTS),
        Gates(min_digit_images=1, min_digit_accuracy=0.0, max_digit_loss=1),
    )
    found = {(result.gate, result.digit): result for result in verdict.results}
    for digit in range(10):
        there = digit < 5
        assert found["min_digit_images", digit].outcome == ("pass" if there else "fail")
        assert found["min_digit_accuracy", digit].outcome == ("pass" if there else "inconclusive")
        assert found["max_digit_loss", digit].outcome == ("pass" if there else "inconclusive")
        assert (found["min_digit_accuracy", digit].value is None) == (not there)
    rows = table(tmp_path, verdict, tables.COMPARISON).set_index("digit")
    assert rows.loc[5:, ["difference", "low", "high"]].isna().all(axis=None)


# Decisions


def test_an_accepted_run_stands_as_passed_for_those_after_it(tmp_path: Path) -> None:
    passed = judged(tmp_path, "2026-01-28")
    failed = judged(tmp_path, "2026-01-29", BROKEN, **OTHER_WEIGHTS)
    run_id = publish(tmp_path)
    before = judge_run(opened(tmp_path), run_id, KEPT)
    assert compared_with(before) == {LAST_PASSED: passed}
    decide(opened(tmp_path), run_by_id(opened(tmp_path), failed), "accepted", "the old weights are not coming back")
    after = judge_run(opened(tmp_path), run_id, KEPT)  # its reference is another: so is the verdict
    assert compared_with(after) == {LAST_PASSED: failed}
    assert after.verdict_id != before.verdict_id
    (note,) = after.notes
    assert note.startswith(f"the last passed run {failed} was accepted 2")
    assert note.endswith(": the old weights are not coming back")


def test_a_run_that_was_never_judged_can_be_accepted(tmp_path: Path) -> None:
    first = publish(tmp_path, "2026-01-30")
    decide(opened(tmp_path), run_by_id(opened(tmp_path), first), "accepted", "looked at by hand")
    assert compared_with(judge_run(opened(tmp_path), publish(tmp_path), KEPT)) == {LAST_PASSED: first}


def test_a_damaged_decision_on_the_baseline_prevents_no_verdict(tmp_path: Path) -> None:
    first = judged(tmp_path, "2026-01-30")
    set_baseline(opened(tmp_path), "toy", "test", first)
    decide(opened(tmp_path), run_by_id(opened(tmp_path), first), "accepted", "looked at by hand")
    (path,) = (tmp_path / "decisions" / first).iterdir()
    flip_bit(path, 30)
    update_views(opened(tmp_path), afresh=True)
    verdict = judge_run(opened(tmp_path), publish(tmp_path), KEPT)
    assert compared_with(verdict) == {BASELINE: first}  # not the last that passed: that cannot be known


@pytest.mark.parametrize("gates_chosen", [True, False])
def test_a_withdrawn_run_is_no_reference(gates_chosen: bool, tmp_path: Path) -> None:
    first, second = judged(tmp_path, "2026-01-29"), judged(tmp_path, "2026-01-30")
    decide(opened(tmp_path), run_by_id(opened(tmp_path), second), "withdrawn", "wrong camera")
    verdict = judge_run(opened(tmp_path), publish(tmp_path), KEPT, gates_chosen=gates_chosen)
    assert compared_with(verdict) == {LAST_PASSED: first}


# What is kept and shown


def test_a_verdict_keeps_its_gates_its_references_and_what_judged(tmp_path: Path) -> None:
    before = judged(tmp_path, "2026-01-30")
    gates = Gates(min_digit_accuracy=0.1, digit_accuracy={3: 0.25})
    verdict = judge_run(opened(tmp_path), publish(tmp_path), gates)
    published = find_verdict(opened(tmp_path), verdict.run_id, verdict.verdict_id)
    assert published is not None
    document = published.document
    assert document.gates["digit_accuracy"] == {"3": 0.25}
    assert document.gates["max_loss"] is None
    assert [reference.run_id for reference in document.references] == [before]
    assert {"numpy", "mnist-pipeline"} <= document.versions.keys()
    rows = table(tmp_path, verdict, tables.GATES)
    assert set(rows["confidence"]) == {gates.confidence}
    assert rows["bound"][rows["digit"] == 3].tolist() == [0.25]


def test_the_views_tell_of_the_verdict(tmp_path: Path) -> None:
    run_id = publish(tmp_path)
    assert pd.read_parquet(tmp_path / "runs.parquet")["outcome"].isna().all()
    for gates, outcome in ((BROKEN, "fail"), (KEPT, "pass")):
        verdict = judge_run(opened(tmp_path), run_id, gates)
        view = pd.read_parquet(tmp_path / "runs.parquet")
        assert view[["verdict_id", "outcome"]].to_numpy().tolist() == [[verdict.verdict_id, outcome]]


@pytest.mark.parametrize(
    ("gates", "line"),
    [
        (KEPT, "pass"),
        (Gates(), "none: nothing was judged"),
        (Gates(min_images=13), "fail: min_images (12, bound 13)"),
        (Gates(min_images=13, min_accuracy=0.1), "fail: min_images (12, bound 13)"),
        (
            Gates(min_images=13, min_digit_images=4),
            (
                "fail: min_images (12, bound 13), min_digit_images of digit 0 (2, bound 4), "
                "min_digit_images of digit 1 (2, bound 4) and 8 more"
            ),
        ),
        (
            Gates(digit_accuracy={3: 0.9}),
            "inconclusive: min_digit_accuracy of digit 3 (0.00 %, interval up to 99.90 %, bound 90.00 %)",
        ),
    ],
)
def test_a_night_in_one_line_names_what_decided(gates: Gates, line: str, tmp_path: Path) -> None:
    run_id = publish(tmp_path)
    assert judge_run(opened(tmp_path), run_id, gates).line == f"run {run_id}: {line}"


# Judges in children of its own, each killed at a later sync to disk than the one before, then once more to the end.
KILLED_AT_EVERY_STEP = """
import os, signal, sys
from pathlib import Path
from mnist_pipeline.core.gates import Gates
from mnist_pipeline.pipeline.judging import judge_run
from tests.pipeline.test_judging import judged, opened, publish, OTHER_WEIGHTS

root, sync = Path(sys.argv[1]), os.fsync


def judge_in_child(outputs, run_id, kill_at):
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    calls = 0

    def fsync(handle):
        nonlocal calls
        calls += 1
        if calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(handle)

    os.fsync = fsync
    try:
        judge_run(opened(outputs), run_id, Gates())
        os._exit(0)
    finally:
        os._exit(1)


for step in range(1, 50):
    outputs = root / f"outputs-{step}"
    judged(outputs, "2026-01-30")
    run_id = publish(outputs, seed=1, **OTHER_WEIGHTS)
    killed = judge_in_child(outputs, run_id, step)
    print(step, killed, judge_in_child(outputs, run_id, None), run_id, flush=True)
    if killed == 0:
        break
"""


@pytest.mark.torture  # between two operations: tests/promises/test_store_faults.py
def test_a_judge_killed_at_any_step_is_finished_by_the_next_with_the_same_tables(tmp_path: Path) -> None:
    driver = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EVERY_STEP, tmp_path],
        cwd=PROJECT,
        env=os.environ | {"TMPDIR": str(tmp_path)},  # a killed writer leaves its temporary folder
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert driver.returncode == 0, driver.stderr
    lines = [line.split() for line in driver.stdout.splitlines()]
    assert len(lines) > 8
    assert [killed for _, killed, _, _ in lines] == [str(-signal.SIGKILL)] * (len(lines) - 1) + ["0"]
    assert {then for _, _, then, _ in lines} == {"0"}
    found = []
    for step, _, _, run_id in lines:
        outputs = tmp_path / f"outputs-{step}"
        (folder,) = (outputs / "verdicts" / run_id).iterdir()
        found.append({name: at for name, at in hashes(folder).items() if name != "verdict.json"})
        assert newest(outputs, run_id) is not None
        # Killed after its verdict was published, a judge leaves staging files and locks that block no process.
        assert [
            name for name in left_over(outputs) if not name.startswith((".", "verdict-", "history.parquet.lock"))
        ] == []
    assert found == found[:1] * len(found)
