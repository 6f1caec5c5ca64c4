"""Whatever operation of the store fails, or is the last of its process: what is published is whole, and all goes on.

On a store in memory, with renames and without; tests/promises/test_whole_or_not_at_all.py tries the system calls of the
one on disk.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest

from mnist_pipeline import tables
from mnist_pipeline.core.gates import Gates
from mnist_pipeline.core.retention import Retention
from mnist_pipeline.errors import OutputsError
from mnist_pipeline.maintenance.pruning import carry_out, plan_prune
from mnist_pipeline.maintenance.verification import check_verdicts
from mnist_pipeline.pipeline.judging import judge_run
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.lookup import list_runs
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.verdicts.baselines import read_baselines, set_baseline
from mnist_pipeline.verdicts.promotions import current_promotion
from mnist_pipeline.views import complete_repairs, current_views, update_views
from tests.promises.conftest import Tried
from tests.promises.mutants import Mutant
from tests.published import at, identity, publish_run
from tests.stores import DiedError, FaultyStore, MemoryStore

ANY_END = "test_at_whatever_operation_it_ends_all_is_whole_and_the_next_attempt_completes_it"
MUTANTS = (
    Mutant(
        "mnist_pipeline/runs/replacement.py",
        "            _complete(run)  # what an attempt before has recorded\n",
        "            store.delete(layout.run_folder(run.name.run_id))\n",
        ANY_END,
    ),
    Mutant(
        "mnist_pipeline/runs/publishing.py",
        "    if run.problems() and replace_run(run, staging, manifest):\n        return True\n",
        "",
        ANY_END,
    ),
    Mutant(
        "mnist_pipeline/views.py",
        "if afresh or known.get(run_id) != version or run_id not in whole",
        "if afresh or not known",
        ANY_END,
    ),
)

OLD, NEW = identity("2026-01-30"), identity("2026-01-31")
GATES = Gates(min_images=1, max_loss=0.9)
CHANGES = {"write", "create", "update", "publish", "move", "delete"}
UNCHANGING_TRIED = 5  # each such operation that fails
LATER = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Attempt:
    """What a command does to an outputs folder, what was there before, and which files may then be damaged."""

    before: Callable[[Outputs], None]
    act: Callable[[Outputs], None]
    damaged: bool = False


def one_run(outputs: Outputs) -> None:
    publish_run(outputs, OLD, published_at=at(1))
    judge_run(outputs, OLD.run_id, GATES)


def two_runs(outputs: Outputs) -> None:
    one_run(outputs)
    publish_run(outputs, NEW, seed=1, published_at=at(2))
    judge_run(outputs, NEW.run_id, GATES)


def damaged_run(outputs: Outputs) -> None:
    two_runs(outputs)
    name = f"{outputs.files_of_run(NEW.run_id)}/"
    victim = next(entry.name for entry in outputs.store.list(name.rstrip("/")) if "part-00000" in entry.name)
    outputs.store.write(victim, b"damaged")


def marked_run(outputs: Outputs) -> None:
    two_runs(outputs)
    prune(outputs)


def prune(outputs: Outputs) -> None:
    left = carry_out(outputs, plan_prune(outputs, Retention(0, 1), timedelta(), LATER), LATER)
    if left:
        raise OutputsError("; ".join(left))


def publish_again(outputs: Outputs) -> None:
    """As `publish_run`, where the run may be published already."""
    from mnist_pipeline.runs.publishing import commit
    from tests.published import staged

    with staged(outputs, NEW, seed=1, published_at=at(2)) as (staging, manifest):
        commit(outputs, staging, manifest)
    update_views(outputs)


def judge(outputs: Outputs) -> None:
    judge_run(outputs, NEW.run_id, Gates(min_images=2, max_loss=0.8))


ATTEMPTS = {
    "publish": Attempt(one_run, publish_again),
    "publish again": Attempt(two_runs, publish_again),
    "repair": Attempt(damaged_run, publish_again, damaged=True),
    "judge": Attempt(two_runs, judge),
    "mark": Attempt(two_runs, prune),
    "delete": Attempt(marked_run, prune),
    "pin": Attempt(two_runs, lambda outputs: set_baseline(outputs, "toy", "test", OLD.run_id)),
}


def published(store: MemoryStore) -> dict[str, bytes | None]:
    """What readers see, by name; of documents with the time in them only that they are there."""
    timed = (layout.VERDICT, layout.PRUNED, layout.HISTORY, layout.RUNS_VIEW)
    hidden = (layout.STAGING, layout.QUARANTINE, layout.DATA)
    return {
        name: None if name.endswith(timed) or name.endswith("flips.parquet") else file.data
        for name, file in store.files.items()
        if not name.startswith(hidden)
    }


def look(outputs: Outputs, earlier: set[str], may_be_damaged: bool) -> None:
    """Every earlier run is there, and what is published is whole; a run that was damaged before may be so still."""
    complete_repairs(outputs)
    assert earlier <= {run.name.run_id for run in list_runs(outputs)}
    for run in list_runs(outputs):
        assert may_be_damaged or run.problems() == [], run.name.run_id
    assert [problem for _, problem in check_verdicts(outputs) if problem] == []
    read_baselines(outputs)
    current_promotion(outputs)


@cache
def begun(name: str, has_rename: bool) -> MemoryStore:
    """What is there before an attempt; to be copied by `restarted`."""
    store = MemoryStore(Path("/nowhere/outputs"), has_rename=has_rename)
    ATTEMPTS[name].before(Outputs(store))
    return store


def operations(name: str, has_rename: bool, dies: bool, every: bool) -> Iterator[int]:
    """The numbers of the operations of an attempt that are tried: `every` one, or those that can make a difference.

    A process that dies at an operation that changes nothing leaves what one leaves that dies at the next change. Of
    those that only fail, some do as well.
    """
    counting = FaultyStore(begun(name, has_rename).restarted())
    ATTEMPTS[name].act(Outputs(counting))
    for number, (operation, _) in enumerate(counting.calls, 1):
        last = number == len(counting.calls)
        if every or last or operation in CHANGES or (not dies and number % UNCHANGING_TRIED == 0):
            yield number


def interrupted(name: str, has_rename: bool, dies: bool, every: bool) -> Iterator[MemoryStore]:
    """For each operation of an attempt that may be the one to fail: what the next process finds."""
    attempt = ATTEMPTS[name]
    for number in operations(name, has_rename, dies, every):
        store = begun(name, has_rename).restarted()
        faulty = FaultyStore(store, fails_at=number, dies=dies)
        with suppress(DiedError, OutputsError):  # some failures are overcome, or only logged
            attempt.act(Outputs(faulty))
        assert len(faulty.calls) >= number
        yield store.restarted()
        if dies and has_rename:
            yield store.after_power_cut()


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.torture)], ids=["changes", "all"])
@pytest.mark.parametrize(
    ("dies", "has_rename"),
    [
        pytest.param(False, True, id="fails-renames"),
        pytest.param(True, True, id="dies-renames"),
        # What fails is reported alike with and without renames; what a death leaves is not.
        pytest.param(False, False, id="fails-no renames", marks=pytest.mark.torture),
        pytest.param(True, False, id="dies-no renames"),
    ],
)
# Publishing again what is whole changes the views only, as "judge" does.
@pytest.mark.parametrize(
    "name",
    [name if name != "publish again" else pytest.param(name, marks=pytest.mark.torture) for name in ATTEMPTS],
)
def test_at_whatever_operation_it_ends_all_is_whole_and_the_next_attempt_completes_it(
    name: str, dies: bool, has_rename: bool, every: bool, tried: Tried
) -> None:
    attempt, count = ATTEMPTS[name], 0
    earlier = {run.name.run_id for run in list_runs(Outputs(begun(name, has_rename)))}
    undisturbed = begun(name, has_rename).restarted()
    attempt.act(Outputs(undisturbed))
    look(Outputs(undisturbed), earlier, may_be_damaged=False)
    expected = published(undisturbed)
    for store in interrupted(name, has_rename, dies, every):
        outputs, count = Outputs(store), count + 1
        look(outputs, earlier, attempt.damaged)
        attempt.act(outputs)
        assert published(store) == expected, f"end {count}"
        assert [problem for _, problem in check_verdicts(outputs) if problem] == []
        views, anew = current_views(outputs), current_views(outputs, afresh=True)
        assert views.runs.equals(anew.runs), f"end {count}"
        assert views.history.equals(anew.history), f"end {count}"
        assert store.held_locks() == []
    what = "processes ended" if dies else "operations failed"
    tried(count, f"{what} in an attempt to {name}, {'with' if has_rename else 'without'} renames")


def test_nothing_is_written_outside_of_the_store() -> None:
    store = MemoryStore(Path("/nowhere/outputs"))
    two_runs(Outputs(store))
    assert not Path("/nowhere").exists()
    assert {name.split("/")[0] for name in store.files} == {
        "runs", "verdicts", "counted", layout.HISTORY, layout.RUNS_VIEW, layout.LATEST,
    }  # fmt: skip
    assert tables.HISTORY.empty.num_rows == 0
