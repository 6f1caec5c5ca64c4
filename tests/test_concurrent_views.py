"""Whatever up to four publishers do at once, the views hold what a reindex makes from the published files.

On a store in memory, with renames and locks as on disk and without as in a bucket, the publishers take turns at each
operation of the store, in an order that is drawn: a failure can be repeated. On a real disk and in a real bucket they
run freely: tests/test_views.py and tests/test_object_store.py.
"""

import json
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_pipeline import tables
from mnist_pipeline.core.retention import Retention
from mnist_pipeline.maintenance.pruning import carry_out, plan_prune
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.lookup import list_runs
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.runs.publishing import commit
from mnist_pipeline.views import update_views
from tests.objectstore import bucket as bucket
from tests.objectstore import server as server
from tests.published import identity, publish_verdict, staged
from tests.stores import MemoryStore

DAYS = 3
EXAMPLES = settings().max_examples // 8  # each is many operations long
VIEWS = (layout.HISTORY, layout.RUNS_VIEW, layout.LATEST)
Step = tuple[str, int]  # what a publisher does, with the run of which day


class Turns:
    """Lets one of several threads go on at a time, up to its next turn; which one is drawn."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._waiting: list[threading.Semaphore] = []
        self._mine = threading.local()

    def run(self, functions: Sequence[Callable[[], object]]) -> None:
        """Call all of them, each in a thread; raise what the first of them has raised."""
        failed: list[BaseException] = []

        def call(function: Callable[[], object], turn: threading.Semaphore) -> None:
            self._mine.turn = turn
            turn.acquire()
            try:
                function()
            except BaseException as error:
                failed.append(error)
            self._waiting.remove(turn)
            self._next()

        self._waiting = [threading.Semaphore(0) for _ in functions]
        threads = [threading.Thread(target=call, args=pair) for pair in zip(functions, self._waiting, strict=True)]
        for thread in threads:
            thread.start()
        self._next()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]

    def take(self) -> None:
        """Wait for the next turn of this thread. One that only helps another is part of that one's turn."""
        if turn := getattr(self._mine, "turn", None):
            self._next()
            turn.acquire()

    def _next(self) -> None:
        if self._waiting:
            self._random.choice(self._waiting).release()


class InterleavedStore:
    """A store in memory of whose users one goes on at a time, up to its next operation."""

    def __init__(self, store: MemoryStore) -> None:
        self.store, self.turns = store, Turns(0)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.store, name)
        if not callable(found):
            return found

        def in_turn(*args: Any, **named: Any) -> Any:
            self.turns.take()
            return found(*args, **named)

        return in_turn

    def update(self, names: Sequence[str], make: Callable[[], Any]) -> None:
        MemoryStore.update(cast(MemoryStore, self), names, make)  # its reads and writes one by one

    @contextmanager
    def lock(self, name: str, wait: bool = True, shared: bool = False) -> Iterator[bool]:
        while True:
            self.turns.take()
            with self.store.lock(name, wait=False, shared=shared) as free:
                if free or not wait:
                    yield free
                    return


def publish(outputs: Outputs, day: int) -> None:
    """A run of which only the first publisher makes a new one."""
    with staged(outputs, identity(f"2026-01-{day:02}"), seed=day) as (staging, manifest):
        commit(outputs, staging, manifest)
    update_views(outputs)


def judge(outputs: Outputs, day: int) -> None:
    published = [run.name.run_id for run in list_runs(outputs) if run.name.run_date.day == day]
    for number, run_id in enumerate(published):
        name = f"{day:06}{number:06}"
        publish_verdict(outputs, run_id, name, outcome=("pass", "fail")[day % 2])
        update_views(outputs, run_id)


def prune(outputs: Outputs, _day: int) -> None:
    """Marks what is old enough, and deletes what was marked before; nothing is in progress an hour later."""
    later = datetime.now(UTC) + timedelta(hours=1)
    carry_out(outputs, plan_prune(outputs, Retention(keep_days=0, keep_last=1), timedelta(0), later), later)


def repair(outputs: Outputs, day: int) -> None:
    for run in list_runs(outputs):
        if run.name.run_date.day == day:
            outputs.store.write(f"{layout.run_folder(run.name.run_id)}/summary.parquet", b"damaged")
    publish(outputs, day)


STEPS: dict[str, Callable[[Outputs, int], None]] = {
    "publish": publish,
    "judge": judge,
    "prune": prune,
    "repair": repair,
}
STEP = st.tuples(st.sampled_from(sorted(STEPS)), st.integers(1, DAYS))
AT_ONCE = st.lists(STEP, min_size=2, max_size=4)


def rows_of_views(outputs: Outputs) -> list[Any]:
    history, runs, latest = (outputs.store.read(name) for name in VIEWS)
    return [
        tables.decode(tables.HISTORY, history, "history").to_pylist(),
        tables.decode(tables.RUNS, runs, "runs").to_pylist(),
        json.loads(latest),
    ]


def require_converged(outputs: Outputs) -> None:
    """The views are as a reindex makes them."""
    kept = rows_of_views(outputs)
    update_views(outputs, afresh=True)
    assert kept == rows_of_views(outputs)


@pytest.mark.parametrize("has_rename", [True, False], ids=["disk", "bucket"])
@settings(max_examples=EXAMPLES)
@given(rounds=st.lists(AT_ONCE, min_size=1, max_size=2), seed=st.integers(0, 2**32))
def test_after_any_interleaving_of_publishers_the_views_are_those_of_a_reindex(
    has_rename: bool, rounds: list[list[Step]], seed: int
) -> None:
    store = InterleavedStore(MemoryStore(has_rename=has_rename))
    outputs = Outputs(cast(MemoryStore, store))
    publish(outputs, 1)
    store.turns = Turns(seed)
    for at_once in rounds:
        store.turns.run([partial(STEPS[what], outputs, day) for what, day in at_once])
    require_converged(outputs)
