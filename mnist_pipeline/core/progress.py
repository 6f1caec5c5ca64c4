"""The type of progress callbacks: called with what is being done, done and total."""

from collections.abc import Callable

# (what is being done, units done so far, units in all); called from any thread.
Progress = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """Report nothing."""


def work_of(what: str) -> str:
    """The name of the work: the text before the comma, as in "training, loss 0.1"; the rest changes."""
    return what.partition(",")[0]
