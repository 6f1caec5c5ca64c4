"""How long work tells of itself: a function the caller gives, called with what, done and total."""

from collections.abc import Callable

# (what is being done, units done so far, units in all); called from any thread.
Progress = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """Tell nobody."""


def work_of(what: str) -> str:
    """The name of the work in "training, loss 0.1": what comes before the comma; the rest is news of it."""
    return what.partition(",")[0]
