"""Housekeeping: old predictions and reports go, after a time in which they can be read; what is needed stays."""

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from mnist_pipeline import load_history, load_run, tables
from mnist_pipeline.cli import app
from mnist_pipeline.core.gates import Gates
from mnist_pipeline.core.retention import Retention
from mnist_pipeline.errors import PrunedError, RunConflictError
from mnist_pipeline.maintenance.pruning import Action, carry_out, plan_prune
from mnist_pipeline.pipeline import evaluation
from mnist_pipeline.pipeline.decisions import decide
from mnist_pipeline.pipeline.judging import judge_run
from mnist_pipeline.pipeline.nightly import run_nightly
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.lookup import list_runs, run_by_id
from mnist_pipeline.runs.publishing import commit
from mnist_pipeline.runs.run import files_of_table
from mnist_pipeline.runs.staging import staging_directory
from mnist_pipeline.settings import Settings
from mnist_pipeline.store.base import Address, Location
from mnist_pipeline.verdicts.baselines import set_baseline
from mnist_pipeline.views import update_views
from tests.builders import small_settings
from tests.objectstore import bucket as bucket
from tests.objectstore import objects
from tests.objectstore import server as server
from tests.processes import another_process, says
from tests.promises.mutants import Mutant
from tests.published import hashes, identity, opened, publish_run, publish_verdict, snapshot, staged

DAY = timedelta(days=1)
NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)
LAST_ONLY = Retention(keep_days=1, keep_last=1)
DATES = ["2026-01-01", "2026-01-02", "2026-01-03", "2026-03-31"]


def publish(outputs: Location, *dates: str) -> list[str]:
    """Published runs, each with a report; their run_ids."""
    run_ids = [publish_run(outputs, identity(date), views=False).name.run_id for date in dates]
    update_views(opened(outputs))
    for run_id in run_ids:
        opened(outputs).store.write(layout.report(run_id), b"<html>")
    return run_ids


def prune(
    outputs: Location, now: datetime = NOW, grace: timedelta = DAY, retention: Retention = LAST_ONLY
) -> list[str]:
    return carry_out(opened(outputs), plan_prune(opened(outputs), retention, grace, now), now)


def decisions(outputs: Location, now: datetime = NOW, grace: timedelta = DAY) -> dict[str, Action]:
    plan = plan_prune(opened(outputs), LAST_ONLY, grace, now)
    return {decision.run.name.run_id: decision.action for decision in plan.decisions}


def reasons(outputs: Location, retention: Retention = LAST_ONLY) -> dict[str, str]:
    return {
        decision.run.name.run_id: decision.why
        for decision in plan_prune(opened(outputs), retention, DAY, NOW).of("keep")
    }


def command(*words: object) -> Result:
    return CliRunner().invoke(app, [*map(str, words)])


def age(path: Path, days: int) -> None:
    """Make files look as if they had been written that long before now."""
    moment = (datetime.now(UTC) - days * DAY).timestamp()
    for each in [path, *path.rglob("*")]:
        os.utime(each, (moment, moment))


# What goes, and when


def test_predictions_and_report_go_in_two_steps_and_all_else_of_the_run_stays(tmp_path: Path) -> None:
    old, *_, new = publish(tmp_path, *DATES)
    publish_verdict(tmp_path, old, outcome="fail")
    update_views(opened(tmp_path))
    before, history = hashes(tmp_path), pd.read_parquet(tmp_path / "history.parquet")
    prune(tmp_path)
    marked = hashes(tmp_path)
    assert {path for path in marked if marked[path] != before.get(path)} == {
        *(f"runs/{identity(date).run_id}/pruned.json" for date in DATES[:3]),
        *("runs.parquet", "reports/index.html", "reports/2026-01.html", "reports/2026-03.html"),
    }
    prune(tmp_path, NOW + DAY - timedelta(seconds=1))
    assert hashes(tmp_path) == marked
    prune(tmp_path, NOW + DAY)
    left = hashes(tmp_path)
    assert {path.split("/")[0] for path in marked.keys() - left.keys()} == {"runs", "reports"}
    assert all("/predictions/" in path or path.startswith("reports/") for path in marked.keys() - left.keys())
    assert {path.split("/")[2] for path in left if path.startswith(f"runs/{old}/")} == {
        *("manifest.json", "pruned.json"),
        *("summary.parquet", "confusion.parquet", "reliability.parquet", "inputs.parquet"),
    }
    assert any(path.startswith(f"verdicts/{old}/") for path in left)
    assert (tmp_path / "reports" / f"{new}.html").exists()
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "history.parquet"), history)
    assert load_history(tmp_path).equals(history)
    assert command("verify", "--outputs", tmp_path).exit_code == 0
    assert load_run(old, outputs=tmp_path, table="summary").shape[0] == 10
    assert set(decisions(tmp_path, NOW + DAY).values()) == {"gone", "keep"}


def test_who_wants_to_read_marked_predictions_is_told_and_who_has_begun_can_go_on(tmp_path: Path) -> None:
    old, *_ = publish(tmp_path, *DATES)
    folder = tmp_path / "runs" / old / "predictions"
    prune(tmp_path)
    with pytest.raises(
        PrunedError,
        match=f"run {old}: expected its predictions, got none: they were pruned at 2026-0",
    ):
        load_run(old, outputs=tmp_path)
    assert len(pd.read_parquet(folder)) == 12
    view = pd.read_parquet(tmp_path / "runs.parquet").set_index("run_id")["pruned_at"]
    assert view.isna().to_dict() == {
        run.name.run_id: run.name.run_date.month == 3 for run in list_runs(opened(tmp_path))
    }
    assert view[old] == NOW
    prune(tmp_path, NOW + DAY)
    assert not folder.exists()


def test_without_apply_nothing_changes_and_it_is_said_what_would(tmp_path: Path) -> None:
    publish(tmp_path, *DATES)
    before = snapshot(tmp_path)
    found = command("prune", "--keep-days", 1, "--keep-last", 1, "--grace-hours", 0, "--outputs", tmp_path)
    assert found.exit_code == 0
    assert "mark 3, delete 0, restore 0; would free" in found.stdout
    assert "nothing is changed without --apply" in found.stdout
    assert "disk use before: " in found.stdout
    assert snapshot(tmp_path) == before
    for run in list_runs(opened(tmp_path)):
        assert run.name.run_id in found.stdout
    (tmp_path / "retention.toml").write_text("[retention]\nkeep_days = 1\nkeep_last = 1\ngrace_hours = 0\n")
    configured = ("--config", tmp_path / "retention.toml", "--outputs", tmp_path)
    assert "mark 3, delete 0" in command("prune", *configured).stdout
    assert "mark 2, delete 0" in command("prune", "--keep-last", 2, *configured).stdout


def test_with_apply_it_is_done_and_said(tmp_path: Path) -> None:
    old, *_ = publish(tmp_path, *DATES)
    words = ["prune", "--keep-days", 1, "--keep-last", 1, "--grace-hours", 0, "--outputs", tmp_path, "--apply"]
    assert "done: mark 3, delete 0, restore 0; disk use now: " in command(*words).stdout
    said = command(*words)
    assert said.exit_code == 0
    assert "done: mark 0, delete 3, restore 0; disk use now: " in said.stdout
    assert not (tmp_path / "runs" / old / "predictions").exists()
    assert "done: mark 0, delete 0" in command(*words).stdout


def test_a_prune_that_was_killed_in_the_middle_is_ended_by_the_next(tmp_path: Path) -> None:
    old, *_ = publish(tmp_path, *DATES)
    prune(tmp_path)
    deleted = tmp_path / ".staging" / f"deleted-{'0' * 32}"
    (tmp_path / "runs" / old / "predictions").rename(deleted)
    age(deleted, 0)
    prune(tmp_path, datetime.now(UTC) + 2 * DAY)
    assert not (tmp_path / "reports" / f"{old}.html").exists()
    assert not list((tmp_path / ".staging").iterdir())
    assert command("verify", "--outputs", tmp_path).exit_code == 0


def test_a_marked_run_that_is_kept_after_all_is_whole_again(tmp_path: Path) -> None:
    old, *_ = publish(tmp_path, *DATES)
    prune(tmp_path)
    prune(tmp_path, retention=Retention(keep_days=1000, keep_last=1))
    assert len(load_run(old, outputs=tmp_path)) == 12
    assert set(decisions(tmp_path).values()) == {"mark", "keep"}


# What stays


def test_the_latest_the_baseline_and_the_last_that_passed_are_kept_and_it_is_said_why(tmp_path: Path) -> None:
    run_ids = publish(tmp_path, *DATES)
    judge_run(opened(tmp_path), run_ids[1], Gates(min_accuracy=0.0))
    judge_run(opened(tmp_path), run_ids[3], Gates(min_accuracy=1.0))
    set_baseline(opened(tmp_path), "toy", "test", run_ids[2])
    assert reasons(tmp_path) == {
        run_ids[1]: "the last that passed",
        run_ids[2]: "the baseline",
        run_ids[3]: "the latest",
    }
    prune(tmp_path, grace=timedelta())
    prune(tmp_path, grace=timedelta())
    assert [(tmp_path / "runs" / run_id / "predictions").exists() for run_id in run_ids] == [False, True, True, True]


def test_a_run_of_which_an_attempt_is_in_progress_is_left_alone(tmp_path: Path) -> None:
    old, *_ = publish(tmp_path, *DATES)
    code = """
        from mnist_pipeline.runs.outputs import Outputs
        from mnist_pipeline.runs.staging import staging_directory
        with staging_directory(Outputs.at(Path(sys.argv[1])), sys.argv[2]):
            print("at work", flush=True)
            sys.stdin.readline()
    """
    plan = plan_prune(opened(tmp_path), LAST_ONLY, DAY, NOW)
    with another_process(code, tmp_path, old) as owner:
        assert says(owner) == "at work"
        assert reasons(tmp_path)[old] == "in progress"
        assert carry_out(opened(tmp_path), plan, NOW) == [
            f"{old}: an attempt is in progress"
        ]  # begun after it was planned
        assert len(load_run(old, outputs=tmp_path)) == 12
    assert decisions(tmp_path)[old] == "mark"


def test_a_damaged_run_is_left_alone(tmp_path: Path) -> None:
    old, *_ = publish(tmp_path, *DATES)
    (tmp_path / "runs" / old / "manifest.json").write_text("{}")
    assert reasons(tmp_path)[old] == "damaged, or cannot be read"


def test_a_pruned_run_cannot_become_the_baseline(tmp_path: Path) -> None:
    old, *_ = publish(tmp_path, *DATES)
    prune(tmp_path)
    found = command("baseline", "set", old, "--dataset", "toy", "--outputs", tmp_path)
    assert found.exit_code == 5
    assert "they were pruned" in found.stderr


# A pruned night again


def test_a_pruned_night_that_is_run_again_is_whole_again(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    first = run_nightly(settings).published
    whole = hashes(tmp_path / "outputs" / "runs")
    run_nightly(settings.model_copy(update={"run_date": settings.run_date + DAY}))
    for _ in range(2):
        prune(settings.outputs, datetime.now(UTC), grace=timedelta())
    with pytest.raises(PrunedError):
        load_run(first.run_id, outputs=tmp_path / "outputs")
    assert run_nightly(settings).published.new
    found = hashes(tmp_path / "outputs" / "runs")
    assert {path: digest for path, digest in found.items() if first.run_id in path} == whole
    assert len(load_run(first.run_id, outputs=tmp_path / "outputs")) == 25


def test_a_marked_night_that_is_run_again_is_kept_as_it_is(tmp_path: Path) -> None:
    old, *_ = publish(tmp_path, *DATES)
    before = {path: at for path, at in snapshot(tmp_path / "runs").items() if old in path}
    prune(tmp_path)
    with staged(tmp_path, identity(DATES[0]), published_at=NOW) as (staging, manifest):
        assert commit(opened(tmp_path), staging, manifest)
    assert {path: at for path, at in snapshot(tmp_path / "runs").items() if old in path} == before


@pytest.mark.parametrize("deleted", [False, True], ids=["marked", "deleted"])
@pytest.mark.parametrize("labels", ["2" * 64, None], ids=["labels", "no labels"])
def test_other_digits_for_a_pruned_night_are_a_conflict(deleted: bool, labels: str | None, tmp_path: Path) -> None:
    who = identity(DATES[0], labels_sha256=labels)
    old = publish_run(tmp_path, who).name.run_id
    publish(tmp_path, DATES[-1])
    prune(tmp_path)
    if deleted:
        prune(tmp_path, NOW + DAY)
    before = hashes(tmp_path / "runs")
    with (
        staged(tmp_path, who, seed=7) as (staging, manifest),
        pytest.raises(RunConflictError, match=f"run {old} is published with other predictions"),
    ):
        commit(opened(tmp_path), staging, manifest)
    assert hashes(tmp_path / "runs") == before


# What is collected as orphans


def night_with_old_shards(tmp_path: Path) -> Settings:
    """A night whose shards are 40 days old."""
    settings = small_settings(tmp_path)
    run_nightly(settings)
    age(tmp_path / "outputs" / "shards", 40)
    return settings


def shard_sets(settings: Settings) -> list[Path]:
    return sorted(Path(str(settings.outputs / "shards")).iterdir())


def test_shards_go_once_no_kept_run_was_made_from_them(tmp_path: Path) -> None:
    settings = night_with_old_shards(tmp_path)
    now = datetime.now(UTC)
    prune(settings.outputs, now)
    (used,) = shard_sets(settings)
    later = settings.model_copy(update={"run_date": settings.run_date + DAY, "shard_rows": 5})
    run_nightly(later)
    prune(settings.outputs, now, grace=timedelta())
    assert len(shard_sets(settings)) == 2
    prune(settings.outputs, now, grace=timedelta(seconds=-60))
    assert used not in shard_sets(settings)
    assert len(shard_sets(settings)) == 1
    assert not run_nightly(later).published.new
    assert command("verify", "--outputs", settings.outputs).exit_code == 0


def test_shards_that_a_run_in_progress_uses_are_left_alone(tmp_path: Path) -> None:
    settings = night_with_old_shards(tmp_path)
    (used,) = shard_sets(settings)
    (run,) = list_runs(opened(settings.outputs))
    assert isinstance(run.folder, Path)
    run.folder.rename(tmp_path / "elsewhere")
    code = """
        from mnist_pipeline.runs.outputs import Outputs
        from mnist_pipeline.store.checkpoints import CheckpointFolder
        outputs, folder = Outputs.at(Path(sys.argv[1])), sys.argv[2]
        with outputs.using_shards(CheckpointFolder(outputs.store, f"{folder}/images", f"{folder}/records")):
            print("at work", flush=True)
            sys.stdin.readline()
    """
    with another_process(code, settings.outputs, layout.shard_set(used.name)) as user:
        assert says(user) == "at work"
        assert prune(settings.outputs, datetime.now(UTC)) == [f"{used}: a run uses them"]
        assert shard_sets(settings) == [used]
    assert prune(settings.outputs, datetime.now(UTC)) == []
    assert shard_sets(settings) == []


def test_a_night_holds_its_shards_from_their_building_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small_settings(tmp_path, workers=1)  # two prunes at once would meet each other's locks
    predict = evaluation.predict_shards
    left_alone = []

    def prune_then_predict(*given: object) -> object:
        age(tmp_path / "outputs" / "shards", 40)
        left_alone.append(prune(settings.outputs, datetime.now(UTC)))
        return predict(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluation, "predict_shards", prune_then_predict)
    assert run_nightly(settings).published.new
    assert left_alone
    assert all(left == [f"{shard_sets(settings)[0]}: a run uses them"] for left in left_alone)


def test_orphans_of_dead_attempts_are_deleted_and_what_the_living_hold_is_not(tmp_path: Path) -> None:
    publish(tmp_path, *DATES)
    root = tmp_path / ".staging"
    dead, tonight, living = (identity(f"2026-02-0{day}").run_id for day in (1, 2, 3))
    verdict, conflict = f"verdict-0123456789ab-{dead}", f"conflict-{dead}-01234567"
    for name in (dead, tonight, verdict, conflict):
        (root / name / "run").mkdir(parents=True)
        (root / name / "run" / "part").write_bytes(b"x")
    (root / f"{dead}.lock").touch()
    (root / f".history.parquet.{'0' * 32}").write_bytes(b"x")
    (root / f"000001.json-{'0' * 32}").write_bytes(b"x")
    (root / f"{dead}.01234567" / "run").mkdir(parents=True)
    (root / f"deleted-{'0' * 32}").mkdir()
    theirs = {"notes.txt", "yarn.lock", f"run-{'0' * 32}", f"{dead}-copy", f"old-{dead}"}
    for name in theirs:
        (root / name).write_bytes(b"x")
    age(root, 5)
    age(root / tonight, 0)
    with staging_directory(opened(tmp_path), living) as staging:
        staging.outputs.store.write(f"{staging.files}/part", b"x")
        age(root / living, 5)
        age(root / f"{living}.lock", 5)
        prune(tmp_path, datetime.now(UTC), retention=Retention(keep_days=30, keep_last=1))
        assert {path.name for path in root.iterdir()} == theirs | {tonight, conflict, living, f"{living}.lock"}
    age(root / conflict, 31)
    prune(tmp_path, datetime.now(UTC), retention=Retention(keep_days=30, keep_last=1))
    assert {path.name for path in root.iterdir()} == theirs | {tonight}


def test_a_prune_touches_nothing_behind_a_link(tmp_path: Path) -> None:
    outputs, elsewhere = tmp_path / "outputs", tmp_path / "elsewhere"
    old, *_ = publish(outputs, *DATES)
    for name in ("runs", "reports"):
        (outputs / name).rename(elsewhere.with_name(name))
        (outputs / name).symlink_to(elsewhere.with_name(name))
    precious = elsewhere / old / "run" / "precious"
    precious.parent.mkdir(parents=True)
    precious.write_bytes(b"x")
    (outputs / ".staging" / old).symlink_to(elsewhere / old)
    age(elsewhere, 40)
    before = {name: snapshot(tmp_path / name) for name in ("runs", "reports", "elsewhere")}
    for days in (0, 2):
        assert prune(outputs, datetime.now(UTC) + days * DAY) == []
    assert set(reasons(outputs).values()) == {"a link to elsewhere"}
    assert {name: snapshot(tmp_path / name) for name in before} == before
    assert len(load_history(outputs)) == 40
    shutil.rmtree(outputs / ".staging")
    (outputs / ".staging").symlink_to(elsewhere)
    found = command("prune", "--apply", "--outputs", outputs)
    assert found.exit_code == 5
    assert f"expected {outputs}/.staging to be a folder, got a link; move it away" in found.stderr
    assert snapshot(elsewhere) == before["elsewhere"]


def test_a_night_that_is_run_again_after_the_prune_was_planned_keeps_its_predictions(tmp_path: Path) -> None:
    old, *_ = publish(tmp_path, *DATES)
    prune(tmp_path)
    plan = plan_prune(opened(tmp_path), LAST_ONLY, DAY, NOW + DAY)
    with staged(tmp_path, identity(DATES[0])) as (staging, manifest):
        assert commit(opened(tmp_path), staging, manifest)
    left = carry_out(opened(tmp_path), plan, NOW + DAY)
    assert left == [f"{old}: it has been run again, or pruned by another, meanwhile"]
    assert len(load_run(old, outputs=tmp_path)) == 12


def test_a_staging_directory_that_is_taken_over_after_the_prune_was_planned_is_left_alone(tmp_path: Path) -> None:
    publish(tmp_path, *DATES)
    run_id = identity("2026-02-01").run_id
    dead = tmp_path / ".staging" / run_id
    (dead / "run").mkdir(parents=True)
    age(dead, 5)
    plan = plan_prune(opened(tmp_path), LAST_ONLY, DAY, datetime.now(UTC))
    with staging_directory(opened(tmp_path), run_id) as taken_over:
        assert carry_out(opened(tmp_path), plan, NOW) == [f"{dead}: an attempt is in progress there"]
        assert taken_over.folder == f".staging/{run_id}"
        assert dead.is_dir()


def test_the_same_prune_twice_at_once_ends_as_one(tmp_path: Path) -> None:
    publish(tmp_path, *DATES)
    for now in (NOW, NOW + DAY):
        plan = plan_prune(opened(tmp_path), LAST_ONLY, DAY, now)
        carry_out(opened(tmp_path), plan, now)
        done = hashes(tmp_path)
        carry_out(opened(tmp_path), plan, now)
        assert hashes(tmp_path) == done


def test_what_was_just_published_is_not_marked_and_may_still_be_judged(tmp_path: Path) -> None:
    run = publish_run(tmp_path, identity(DATES[0]), published_at=NOW - DAY / 2)
    publish(tmp_path, DATES[-1])
    assert reasons(tmp_path)[run.name.run_id] == "just published"


def test_an_older_run_that_judging_would_go_back_to_is_kept(tmp_path: Path) -> None:
    run_ids = publish(tmp_path, *DATES)
    for run_id in run_ids[:2]:
        judge_run(opened(tmp_path), run_id, Gates(min_accuracy=0.0))
    (tmp_path / "runs" / run_ids[1] / "predictions" / "part-00001.parquet").unlink()
    kept = reasons(tmp_path)
    assert (kept[run_ids[0]], kept[run_ids[1]]) == ("the last that passed", "the last that passed")


def test_an_accepted_run_is_kept_as_the_last_that_passed_and_a_withdrawn_one_is_not(tmp_path: Path) -> None:
    first, second, third, last = publish(tmp_path, *DATES)
    outputs = opened(tmp_path)
    for run_id in (first, third):
        judge_run(outputs, run_id, Gates(min_images=1))
    decide(outputs, run_by_id(outputs, second), "accepted", "no better one is coming")
    assert (second in reasons(tmp_path), reasons(tmp_path)[third]) == (False, "the last that passed")
    for run_id in (third, last):
        decide(outputs, run_by_id(outputs, run_id), "withdrawn", "wrong camera")
    kept = reasons(tmp_path)
    assert (first in kept, third in kept, kept[second]) == (False, False, "the latest")
    assert kept[last] == "one of the last 1"


def test_the_newest_run_with_nothing_judged_is_kept_until_a_later_one_has_passed(tmp_path: Path) -> None:
    first, second, third, _ = publish(tmp_path, *DATES[:4])
    for run_id in (first, second):
        judge_run(opened(tmp_path), run_id, Gates(max_flips_unchanged=None))
    assert (first in reasons(tmp_path), reasons(tmp_path)[second]) == (False, "the last with nothing judged")
    judge_run(opened(tmp_path), third, Gates(min_images=1))
    assert (second in reasons(tmp_path), reasons(tmp_path)[third]) == (False, "the last that passed")


def test_reports_are_written_anew_around_pruned_runs(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    for days in range(2):
        run_nightly(settings.model_copy(update={"run_date": settings.run_date + days * DAY}))
    prune(settings.outputs, datetime.now(UTC), grace=timedelta())
    found = command("reindex", "--outputs", settings.outputs)
    assert found.exit_code == 0, found.output
    assert len(list((tmp_path / "outputs" / "reports").glob("*-toy-test-*.html"))) == 1


@pytest.mark.parametrize("name", ["shards/imagenet/000.tar", "shards/README", f"src/.key.{'0' * 32}", ".staging/x"])
def test_a_folder_that_is_no_outputs_folder_is_left_alone(name: str, tmp_path: Path) -> None:
    theirs = tmp_path / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs")
    age(tmp_path, 40)
    before = snapshot(tmp_path)
    found = command("prune", "--outputs", tmp_path, "--apply")
    assert found.exit_code == 5
    assert f"{tmp_path}: expected published runs, got none" in found.stderr
    assert snapshot(tmp_path) == before


def test_names_that_are_none_of_ours_and_links_are_left_alone(tmp_path: Path) -> None:
    outputs, elsewhere = tmp_path / "outputs", tmp_path / "elsewhere"
    publish(outputs, *DATES)
    (elsewhere / "toy-test-0123456789ab").mkdir(parents=True)
    (elsewhere / "toy-test-0123456789ab" / "file").write_text("theirs")
    (outputs / "shards").mkdir()
    (outputs / "shards" / "README").write_text("theirs")
    (outputs / "shards" / "toy-test-0123456789ab").symlink_to(elsewhere / "toy-test-0123456789ab")
    link = outputs / "runs" / identity("2025-01-01").run_id
    publish_run(elsewhere, identity("2025-01-01"))
    link.symlink_to(elsewhere / "runs" / link.name)
    for path in (outputs / "shards", elsewhere):
        age(path, 40)
    before = snapshot(elsewhere)
    assert prune(outputs, datetime.now(UTC)) == []
    assert prune(outputs, datetime.now(UTC) + 2 * DAY) == []
    assert snapshot(elsewhere) == before
    assert (outputs / "shards" / "README").exists()
    assert reasons(outputs)[link.name] == "a link to elsewhere"


def test_a_number_too_large_is_refused(tmp_path: Path) -> None:
    publish(tmp_path, DATES[0])
    for words in (["--keep-days", 1_000_000], ["--grace-hours", 100_000_000]):
        assert command("prune", "--outputs", tmp_path, *words).exit_code == 2


# In an object store


def test_in_an_object_store_predictions_go_in_the_same_two_steps_and_nothing_is_collected(bucket: Address) -> None:
    old, *_, new = publish(bucket, *DATES)
    publish_verdict(bucket, old, outcome="fail")
    store = opened(bucket).store
    for marker in ("data", f"data/{new}", "shards", ".staging"):  # as consoles make to show an empty folder
        store.write(marker, b"")
    with staging_directory(opened(bucket), old) as staging:  # an attempt that published nothing
        staging.checkpoints.write("part-00000.parquet", 5, b"x", {})
    now = datetime.now(UTC) + 3 * DAY
    before = set(objects(bucket))
    prune(bucket, now)
    assert len(load_run(new, outputs=str(bucket))) == 12
    with pytest.raises(PrunedError):
        load_run(old, outputs=str(bucket))
    gone = list_runs(opened(bucket))[:3]
    predictions = {
        f"data/{run.name.run_id}/{file.path}"
        for run in gone
        for file in files_of_table(run.manifest(), tables.PREDICTIONS)
    }
    assert predictions <= before
    prune(bucket, now + DAY)
    assert before - set(objects(bucket)) == predictions | {layout.report(run.name.run_id) for run in gone}
    assert all(run.problems() == [] for run in list_runs(opened(bucket)))
    assert len(load_history(str(bucket))) == 10 * len(DATES)
    with staged(bucket, identity(DATES[0]), published_at=NOW) as (staging, manifest):
        assert commit(opened(bucket), staging, manifest)
    assert run_by_id(opened(bucket), old).problems() == []
    assert len(load_run(old, outputs=str(bucket))) == 12


MUTANTS = (
    Mutant(
        "mnist_pipeline/maintenance/pruning.py",
        "over = until <= now",
        "over = True",
        "test_predictions_and_report_go_in_two_steps_and_all_else_of_the_run_stays",
    ),
    Mutant(
        "mnist_pipeline/maintenance/pruning.py",
        '    return needed | dict.fromkeys(read_baselines(inventory.outputs).values(), "the baseline")',
        "    return needed",
        "test_the_latest_the_baseline_and_the_last_that_passed_are_kept_and_it_is_said_why",
    ),
    Mutant(
        "mnist_pipeline/maintenance/orphans.py",
        '            if not alone:\n                raise OutputsError("a run uses them")\n',
        "",
        "test_shards_that_a_run_in_progress_uses_are_left_alone",
    ),
    Mutant(
        "mnist_pipeline/pipeline/evaluation.py",
        "        stack.enter_context(plan.outputs.using_shards(plan.shard_set))\n",
        "",
        "test_a_night_holds_its_shards_from_their_building_to_the_end",
    ),
    Mutant(
        "mnist_pipeline/maintenance/orphans.py",
        "limit = conflicts_before if name.startswith(layout.CONFLICT) else before",
        "limit = before",
        "test_orphans_of_dead_attempts_are_deleted_and_what_the_living_hold_is_not",
    ),
    Mutant(
        "mnist_pipeline/maintenance/pruning.py",
        "        if decision.run.pruned() != decision.pruned:",
        "        if decision is None:",
        "test_a_night_that_is_run_again_after_the_prune_was_planned_keeps_its_predictions",
    ),
    Mutant(
        "mnist_pipeline/maintenance/orphans.py",
        '        if not alone:\n            raise OutputsError("an attempt is in progress there")\n',
        "",
        "test_a_staging_directory_that_is_taken_over_after_the_prune_was_planned_is_left_alone",
    ),
)
