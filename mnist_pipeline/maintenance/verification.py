"""Checks everything below the outputs folder that carries a checksum. Changes nothing."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mnist_pipeline.errors import DamagedError, RunNotFoundError
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.counting import read_counted
from mnist_pipeline.runs.decisions import newest_decision
from mnist_pipeline.runs.lookup import list_runs
from mnist_pipeline.runs.manifest import RunContent
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.store.base import Location
from mnist_pipeline.verdicts.records import read_whole

Checked = tuple[Location, str | None]  # and what is wrong with it


def check_verdicts(outputs: Outputs) -> Iterator[Checked]:
    """Every verdict, document and tables."""
    for run_id in outputs.store.children(layout.VERDICTS):
        for verdict_id in outputs.store.children(f"{layout.VERDICTS}/{run_id}"):
            location = outputs.path(layout.verdict_folder(run_id, verdict_id))
            try:
                read_whole(outputs, run_id, verdict_id)
                yield location, None
            except DamagedError as error:
                yield location, f"{error}; the next night that comes to the same verdict gives it again"


def check_decisions(outputs: Outputs) -> Iterator[Checked]:
    """The last decision on each run that has one; those before it are history."""
    for run_id in outputs.store.children(layout.DECISIONS):
        location = outputs.path(layout.decisions(run_id))
        try:
            newest_decision(outputs, RunContent(run_id, None))
            yield location, None
        except DamagedError as error:
            yield location, str(error)


def check_counted(outputs: Outputs) -> Iterator[Checked]:
    """Every record that a run counts."""
    for child in outputs.store.children(layout.COUNTED):
        run_id = child.removesuffix(".json")
        try:
            read_counted(outputs, run_id)
            yield outputs.path(layout.counted(run_id)), None
        except DamagedError as error:
            yield outputs.path(layout.counted(run_id)), str(error)


def check_shards(outputs: Outputs) -> Iterator[Checked]:
    """Every shard that has a checkpoint record, or should have one."""
    for name in outputs.store.children(layout.SHARDS):
        shards = outputs.shards_in(name)
        for child in outputs.store.children(shards.folder):
            sound = shards.find(child) is not None
            problem = None if sound else "it is not what its record says; the next night that uses it makes it again"
            yield shards.location / child, problem


def check_weights(outputs: Outputs) -> Iterator[Checked]:
    """Every file of weights in the archive: its name is the hash of its content."""
    for child in outputs.store.children(layout.WEIGHTS):
        path = outputs.path(f"{layout.WEIGHTS}/{child}")
        if path.suffix == ".safetensors" and not child.startswith("."):
            try:
                outputs.load_weights(path.stem)
                problem = None
            except DamagedError as error:
                problem = str(error)
            yield path, problem


def check_runs(outputs: Outputs) -> Iterator[Checked]:
    """Every published run, every file of it."""
    for run in list_runs(outputs):
        yield run.folder, "; ".join(run.problems()) or None


CHECKS = {
    "verdicts": check_verdicts,
    "decisions": check_decisions,
    "records that runs count": check_counted,
    "shards": check_shards,
    "weights": check_weights,
}


@dataclass(frozen=True)
class Verified:
    """What one kind of files came to. `problems` name the damaged ones."""

    what: str
    checked: int
    problems: tuple[str, ...]

    @property
    def line(self) -> str:
        """For example `shards: 3 verified, 0 damaged`."""
        if not self.checked:
            return f"{self.what}: none there"
        return f"{self.what}: {self.checked - len(self.problems)} verified, {len(self.problems)} damaged"


def verify_all(outputs: Outputs) -> list[Verified]:
    """Check the runs, and everything in `CHECKS`."""
    return [verify_kind(outputs, what, check) for what, check in {"runs": check_runs, **CHECKS}.items()]


def verify_kind(outputs: Outputs, what: str, check: Callable[[Outputs], Iterator[Checked]]) -> Verified:
    """Check one kind of files."""
    checked = list(check(outputs))
    problems = tuple(f"{location}: {problem}" for location, problem in checked if problem)
    return Verified(what, len(checked), problems)


def require_sound(verified: Sequence[Verified]) -> None:
    """Nothing, if there is something, and nothing is damaged.

    Raises:
        RunNotFoundError: nothing was there to verify.
        DamagedError: something is; the first three are named.
    """
    if not any(each.checked for each in verified):
        raise RunNotFoundError("maintenance: expected published runs, got nothing there to verify; check the outputs")
    problems = [problem for each in verified for problem in each.problems]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise DamagedError(
            f"damaged: {len(problems)}: {'; '.join(problems[:3])}{more}; `mnist-pipeline verify --repair` publishes "
            "damaged runs again"
        )
