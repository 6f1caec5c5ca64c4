import io
import logging
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from mnist_pipeline.report import progress
from mnist_pipeline.report.progress import SECONDS_BETWEEN_LINES, bars, log_lines

LOGGER = logging.getLogger("tests.progress")


class Clock:
    """Replaces `time`; advances only on request."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Clock:
    caplog.set_level(logging.INFO)
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_line_now_and_then_and_one_at_the_end(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    report = log_lines(LOGGER)
    for done in range(1000, 13_000, 1000):
        report("predictions", done, 12_000)
        clock.now += 1
    assert caplog.messages == [
        "predictions: 6,000 of 12,000",
        "predictions: 11,000 of 12,000",
        "predictions: 12,000 of 12,000",
    ]


def test_short_work_is_one_line(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    report = log_lines(LOGGER)
    for done in range(1, 51):
        report("shards", done, 50)
    assert caplog.messages == ["shards: 50 of 50"]


def test_each_work_item_has_its_own_lines(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    report = log_lines(LOGGER)
    report("a.gz", 1, 3)
    clock.now += SECONDS_BETWEEN_LINES
    report("b.gz", 1, 3)  # the first report of a work item starts its clock
    report("a.gz", 2, 3)
    assert caplog.messages == ["a.gz: 2 of 3"]


def test_news_after_a_comma_is_of_the_same_work(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    report = log_lines(LOGGER)
    for epoch in range(1, 8):
        report(f"training, loss 0.{epoch}", epoch, 7)
        clock.now += 2
    assert caplog.messages == ["training, loss 0.4: 4 of 7", "training, loss 0.7: 7 of 7"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 20)), max_size=60))
def test_unfinished_work_never_speaks_twice_within_the_time_set(
    steps: list[tuple[str, float]], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    report = log_lines(LOGGER)
    spoken: dict[str, list[float]] = {"a": [], "b": []}
    for work, seconds in steps:
        clock.now += seconds
        before = len(caplog.messages)
        report(work, 1, 2)
        spoken[work] += [clock.now] * (len(caplog.messages) - before)
    for times in spoken.values():
        assert all(later - earlier >= SECONDS_BETWEEN_LINES for earlier, later in pairwise(times))


def test_threads_that_finish_together_are_all_heard(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    report = log_lines(LOGGER)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: report(f"work {number}", 1, 1), range(100)))
    assert sorted(caplog.messages) == sorted(f"work {number}: 1 of 1" for number in range(100))


def test_each_work_item_has_one_bar_that_ends_full() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, color_system=None)
    with bars(console) as report:
        for done in range(1, 11):
            report("shards", done, 10)
            report(f"training, loss {done}", done, 20)
    last = file.getvalue().rsplit("shards", 1)[1]
    assert "100%" in last
    assert "training, loss 10" in last
    assert "50%" in last
    assert "loss 9" not in last
