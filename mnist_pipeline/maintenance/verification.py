"""Checks everything below the outputs folder that carries a checksum. Changes nothing."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from mnist_pipeline.errors import DamagedError, OutputsError, RunNotFoundError, StoreError, printable
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.counting import read_counted
from mnist_pipeline.runs.decisions import newest_decision
from mnist_pipeline.runs.lookup import list_runs
from mnist_pipeline.runs.manifest import RunContent
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.runs.run import Run
from mnist_pipeline.store.base import Location
from mnist_pipeline.store.checkpoints import CheckpointFolder
from mnist_pipeline.verdicts.records import read_whole

Checked = tuple[Location, OutputsError | None]  # DamagedError: it is damaged. Any other: it cannot be read


def _checked(location: Location, look: Callable[[], object]) -> Checked:
    try:
        look()
    except OutputsError as error:
        return location, error
    return location, None


def _each(outputs: Outputs, folder: str, check: Callable[[str], Checked]) -> Iterator[Checked]:
    """What is in a folder, each checked; the folder itself if it cannot be looked through."""
    try:
        names = outputs.store.children(folder)
    except StoreError as error:
        yield outputs.path(folder), error
        return
    yield from map(check, names)


def check_verdicts(outputs: Outputs) -> Iterator[Checked]:
    """Every verdict, document and tables."""

    def look(run_id: str, verdict_id: str) -> None:
        try:
            read_whole(outputs, run_id, verdict_id)
        except DamagedError as error:
            raise DamagedError(f"{error}; the next night that comes to the same verdict gives it again") from error

    def check(run_id: str, verdict_id: str) -> Checked:
        location = outputs.path(layout.verdict_folder(run_id, verdict_id))
        return _checked(location, partial(look, run_id, verdict_id))

    for run_id in outputs.store.children(layout.VERDICTS):
        yield from _each(outputs, f"{layout.VERDICTS}/{run_id}", partial(check, run_id))


def check_decisions(outputs: Outputs) -> Iterator[Checked]:
    """The last decision on each run that has one; those before it are history."""
    for run_id in outputs.store.children(layout.DECISIONS):
        location = outputs.path(layout.decisions(run_id))
        yield _checked(location, partial(newest_decision, outputs, RunContent(run_id, None)))


def check_counted(outputs: Outputs) -> Iterator[Checked]:
    """Every record that a run counts."""

    def look(run_id: str) -> None:
        if read_counted(outputs, run_id) is None:
            raise DamagedError("expected a record, got no file; run its date again, or accept the run")

    for child in outputs.store.children(layout.COUNTED):
        run_id = child.removesuffix(".json")
        yield _checked(outputs.path(layout.counted(run_id)), partial(look, run_id))


def check_shards(outputs: Outputs) -> Iterator[Checked]:
    """Every shard that has a checkpoint record, or should have one."""

    def look(shards: CheckpointFolder, name: str) -> None:
        if shards.find(name) is None:
            raise DamagedError("it is not what its record says; the next night that uses it makes it again")

    def check(shards: CheckpointFolder, name: str) -> Checked:
        return _checked(shards.location / name, partial(look, shards, name))

    for name in outputs.store.children(layout.SHARDS):
        shards = outputs.shards_in(name)
        yield from _each(outputs, shards.folder, partial(check, shards))


def check_weights(outputs: Outputs) -> Iterator[Checked]:
    """Every file of weights in the archive: its name is the hash of its content."""
    for child in outputs.store.children(layout.WEIGHTS):
        path = outputs.path(f"{layout.WEIGHTS}/{child}")
        if path.suffix == ".safetensors" and not child.startswith("."):
            yield _checked(path, partial(outputs.load_weights, path.stem))


def check_run(run: Run) -> OutputsError | None:
    """What is wrong with a run: DamagedError if something of it is damaged, any other if it cannot be read."""

    def look() -> None:
        if problems := run.problems():
            raise DamagedError("; ".join(problems))

    return _checked(run.folder, look)[1]


def check_runs(outputs: Outputs) -> Iterator[Checked]:
    """Every published run, every file of it."""
    for run in list_runs(outputs):
        yield run.folder, check_run(run)


CHECKS = {
    "verdicts": check_verdicts,
    "decisions": check_decisions,
    "records that runs count": check_counted,
    "shards": check_shards,
    "weights": check_weights,
}


@dataclass(frozen=True)
class Verified:
    """What one kind of files came to. `problems` name the damaged ones, `unread` those that cannot be read."""

    what: str
    checked: int
    problems: tuple[str, ...]
    unread: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """For example `shards: 3 verified, 0 damaged`."""
        if not self.checked:
            return f"{self.what}: none there"
        sound = self.checked - len(self.problems) - len(self.unread)
        unread = f", {len(self.unread)} cannot be read" if self.unread else ""
        return f"{self.what}: {sound} verified, {len(self.problems)} damaged{unread}"


def verify_all(outputs: Outputs) -> list[Verified]:
    """Check the runs, and everything in `CHECKS`."""
    return [verify_kind(outputs, what, check) for what, check in {"runs": check_runs, **CHECKS}.items()]


def verify_kind(outputs: Outputs, what: str, check: Callable[[Outputs], Iterator[Checked]]) -> Verified:
    """Check one kind of files."""
    checked: list[Checked] = []
    try:
        checked.extend(check(outputs))
    except StoreError as error:  # the folder of all of them cannot be looked through
        checked.append((outputs.location, error))
    found = [(error, printable(f"{location}: {error}")) for location, error in checked if error is not None]
    return Verified(
        what,
        len(checked),
        problems=tuple(line for error, line in found if isinstance(error, DamagedError)),
        unread=tuple(line for error, line in found if not isinstance(error, DamagedError)),
    )


def require_sound(verified: Sequence[Verified]) -> None:
    """Nothing, if there is something, and nothing is damaged.

    Raises:
        RunNotFoundError: nothing was there to verify.
        DamagedError: something is; the first three are named.
        StoreError: something cannot be read; the first three are named.
    """
    if not any(each.checked for each in verified):
        raise RunNotFoundError("maintenance: expected published runs, got nothing there to verify; check the outputs")
    if problems := [problem for each in verified for problem in each.problems]:
        raise DamagedError(
            f"damaged: {_first(problems)}; `mnist-pipeline verify --repair` publishes damaged runs again"
        )
    if unread := [problem for each in verified for problem in each.unread]:
        raise StoreError(f"cannot be read: {_first(unread)}; nothing is known to be damaged")


def _first(lines: Sequence[str]) -> str:
    more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
    return f"{len(lines)}: {'; '.join(lines[:3])}{more}"
