"""Which runs give up their predictions, and how: housekeeping for outputs that grow by a run a night.

A run that is not kept is marked first, and says so to whoever wants to read it. Its predictions and its report are
deleted by a later prune, when those who had begun to read have had time to finish. Manifest, summary and verdicts stay.
The rule itself is in `core/retention.py`; what is swept beside is found by `leftovers.py`.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from mnist_pipeline import tables
from mnist_pipeline.core.gates import Outcome
from mnist_pipeline.core.retention import Aged, Retention, kept
from mnist_pipeline.datasets.shards import shard_set_of
from mnist_pipeline.errors import DamagedError, OutputsError
from mnist_pipeline.maintenance.orphans import (
    MAX_WRITE_TIME,
    Inventory,
    Orphan,
    abandoned,
    collect,
    size_of,
    unused_shards,
)
from mnist_pipeline.runs.lookup import PRUNED, RUNS, Run, files_of_table, list_runs
from mnist_pipeline.runs.manifest import Manifest, Pruned
from mnist_pipeline.runs.staging import DATA, PREDICTIONS, STAGING
from mnist_pipeline.store.files import Found, create_file, each_document, outputs_errors, remove_folder
from mnist_pipeline.store.locks import is_locked, undisturbed
from mnist_pipeline.store.objects import Location, ObjectPath
from mnist_pipeline.verdicts.baselines import read_baselines
from mnist_pipeline.verdicts.records import STAGING_PREFIX, VERDICTS, newest_verdict
from mnist_pipeline.views import REPORTS, update_views

# keep: nothing happens. mark: it is said that predictions and report are given up. wait: that is said, and readers have
# time. delete: that time is over. gone: they have been deleted. restore: marked, and to be kept after all.
Action = Literal["keep", "mark", "wait", "delete", "gone", "restore"]

# The newest run of each of these outcomes is kept: the next night may be compared with it.
REFERENCES: Mapping[Outcome, str] = {"pass": "the last that passed", "none": "the last with nothing judged"}


@dataclass(frozen=True)
class PruneDecision:
    """What becomes of a run, and why; all that it takes, and what of it are predictions and report."""

    run: Run
    action: Action
    why: str
    pruned: Pruned | None
    size_bytes: int
    prunable_bytes: int


@dataclass(frozen=True)
class _Read:
    """What a run says of itself; both documents were whole."""

    manifest: Manifest
    pruned: Pruned | None


@dataclass(frozen=True)
class Prune:
    """What a prune would do."""

    decisions: tuple[PruneDecision, ...]  # oldest first
    shards: tuple[Orphan, ...]
    staging: tuple[Orphan, ...]  # neither in an object store, where there are no locks
    use_bytes: Mapping[str, int]  # by top-level name, the largest first

    def of(self, *actions: Action) -> list[PruneDecision]:
        """The runs with which one of these is done."""
        return [decision for decision in self.decisions if decision.action in actions]

    @property
    def frees_bytes(self) -> int:
        """What carrying it out gives back."""
        collected = sum(orphan.size_bytes for orphan in (*self.shards, *self.staging))
        return collected + sum(decision.prunable_bytes for decision in self.of("delete"))


def plan_prune(outputs: Location, retention: Retention, grace: timedelta, now: datetime) -> Prune:
    """Decide what a prune does, and change nothing.

    Args:
        outputs: the outputs folder.
        retention: which runs keep their predictions, beside the latest, the baseline, the last that passed or had
            nothing judged, and
            those of which an attempt is in progress.
        grace: how long marked predictions, what attempts have left behind, and what was published stay untouched for
            whoever is at work with them.
        now: in UTC.

    Raises:
        DamagedError: the file of the baselines is altered.
        OutputsError: the folder cannot be read.
    """
    with outputs_errors(f"cannot look through {outputs}"):
        inventory = Inventory.take(outputs)
        runs = _read_runs(outputs)
        reasons = kept(
            [Aged(run.name.run_id, run.name.run_date, run.name.split_of) for run in runs],
            retention,
            now.date(),
            needed=_needed(inventory, runs) | _in_progress(inventory, now - grace),
        )
        decisions = [_decide(run, read, inventory, reasons, grace, now) for run, read in runs.items()]
        used = {
            shard_set_of(outputs, read.manifest.identity).folder.parent.name
            for decision, read in zip(decisions, runs.values(), strict=True)
            if read and decision.action not in ("delete", "gone")
        }
        return Prune(
            decisions=tuple(decisions),
            shards=tuple(unused_shards(inventory, used, now - grace)),
            staging=tuple(
                abandoned(
                    inventory,
                    before=now - max(grace, MAX_WRITE_TIME),
                    conflicts_before=now - max(grace, timedelta(retention.keep_days)),
                )
            ),
            use_bytes=inventory.use_bytes(),
        )


def carry_out(outputs: Location, prune: Prune, now: datetime) -> list[str]:
    """Do what was decided, and go on where it cannot be done; what has come into use meanwhile is left alone.

    Returns:
        What was left alone, a line each.

    Raises:
        OutputsError: a view cannot be written.
    """
    left: list[str] = []
    for decision in prune.of("mark", "restore"):
        with _or_left(decision.run.name.run_id, left), _alone(outputs, decision):
            if decision.action == "restore":
                (decision.run.folder / PRUNED).unlink()
            else:
                decision.run.manifest()  # it may have been moved away
                record = Pruned(schema_version=tables.SCHEMA_VERSION, run_id=decision.run.name.run_id, pruned_at=now)
                create_file(decision.run.folder / PRUNED, record.to_bytes(), outputs / STAGING)
    update_views(outputs)  # before anything is deleted: readers go by them
    for decision in prune.of("delete"):
        with _or_left(decision.run.name.run_id, left), _alone(outputs, decision):
            _delete(outputs, decision.run)
    for orphan in (*prune.shards, *prune.staging):
        assert isinstance(outputs, Path), f"nothing is swept in {outputs}"
        with _or_left(str(orphan.path), left):
            collect(outputs, orphan)
    return left


@contextmanager
def _or_left(what: str, left: list[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # one run must not keep the others from their fate
        left.append(f"{what}: {error}")


@contextmanager
def _alone(outputs: Location, decision: PruneDecision) -> Iterator[None]:
    """Be alone with a run that is still as it was when its fate was decided.

    Raises:
        OutputsError: it is not, or there is an attempt at work.
    """
    with (
        undisturbed(outputs / STAGING, decision.run.name.run_id)
        if isinstance(outputs, Path)
        else nullcontext(True) as alone
    ):
        if not alone:
            raise OutputsError("an attempt is in progress")
        if decision.run.pruned() != decision.pruned:
            raise OutputsError("it has been run again, or pruned by another, meanwhile")
        yield


def _delete(outputs: Location, run: Run) -> None:
    if isinstance(run.folder, Path):
        away = run.folder.parent.parent / STAGING / f"pruned-{run.name.run_id}"
        remove_folder(away)
        if (predictions := run.folder / PREDICTIONS).exists():
            predictions.rename(away)  # so that nobody who comes now sees a part of them
        remove_folder(away)
    else:
        for file in files_of_table(run.manifest(), tables.PREDICTIONS):
            path = run.files / file.path
            assert isinstance(path, ObjectPath), f"{path} is in a store"
            path.unlink()
    report = outputs / REPORTS / f"{run.name.run_id}.html"
    if report.is_file():
        report.unlink()


def _read_runs(outputs: Location) -> dict[Run, _Read | None]:
    """All runs, oldest first, each with its manifest and mark; None if one of them is damaged."""

    def read(run: Run) -> _Read | None:
        try:
            return _Read(run.manifest(), run.pruned())
        except DamagedError:
            return None

    runs = list_runs(outputs)
    found = dict(zip(runs, each_document(outputs, read, runs), strict=True))

    def age(run: Run) -> tuple[object, ...]:
        known = found[run]
        return run.name.run_date, known is not None, known and known.manifest.published_at, run.name.run_id

    return {run: found[run] for run in sorted(found, key=age)}


def _needed(inventory: Inventory, runs: Mapping[Run, _Read | None]) -> dict[str, str]:
    """The runs that are kept in any case, with the reason."""
    needed: dict[str, str] = {}
    latest, found = set[str](), defaultdict[str, set[Outcome]](set)
    for run in reversed(list(runs)):
        read, split = runs[run], run.name.split_of
        if read is None:
            needed[run.name.run_id] = "damaged"
            continue
        if "pass" not in found[split]:  # before it nothing is looked for
            verdict = newest_verdict(inventory.outputs, read.manifest.content)
            if verdict and verdict.outcome in REFERENCES.keys() - found[split]:
                needed[run.name.run_id] = REFERENCES[verdict.outcome]
                if read.pruned is None and _has_predictions(inventory, run, read.manifest):
                    found[split].add(verdict.outcome)  # else judging goes by an older one
        if split not in latest:
            latest.add(split)
            needed[run.name.run_id] = "the latest"
    return needed | dict.fromkeys(read_baselines(inventory.outputs).values(), "the baseline")


def _has_predictions(inventory: Inventory, run: Run, manifest: Manifest) -> bool:
    sizes = {path: found.size_bytes for path, found in _by_path(inventory, run).items()}
    files = files_of_table(manifest, tables.PREDICTIONS)
    return all(sizes.get(str(run.files / file.path)) == file.size_bytes for file in files)


def _by_path(inventory: Inventory, run: Run) -> dict[str, Found]:
    return {str(inventory.outputs / each.path): each for each in _files_of(inventory, run)}


def _files_of(inventory: Inventory, run: Run) -> list[Found]:
    name = run.name.run_id
    return inventory.of((RUNS, name), (VERDICTS, name), (DATA, name), (REPORTS, f"{name}.html"))


def _in_progress(inventory: Inventory, since: datetime) -> dict[str, str]:
    """The runs that are made or judged now: on disk a lock is held, in a store something was written since then."""
    outputs = inventory.outputs
    if isinstance(outputs, ObjectPath):
        staged = [
            name
            for (top, name), some in inventory.files.items()
            if top == STAGING and any(found.written_at > since for found in some)
        ]
    else:
        staged = [path.stem for path in (outputs / STAGING).glob("*.lock") if is_locked(path)]
    return {STAGING_PREFIX.sub("", name).partition(".")[0]: "in progress" for name in staged}


def _decide(
    run: Run,
    read: _Read | None,
    inventory: Inventory,
    reasons: Mapping[str, str],
    grace: timedelta,
    now: datetime,
) -> PruneDecision:
    name, there = run.name.run_id, _by_path(inventory, run)
    files = files_of_table(read.manifest, tables.PREDICTIONS) if read else []
    pruned_paths = [str(run.files / file.path) for file in files]
    prunable = [there[path] for path in pruned_paths if path in there] + inventory.of((REPORTS, f"{name}.html"))
    reason, pruned = reasons.get(name), read.pruned if read else None
    until = None if pruned is None else pruned.pruned_at + grace
    action: Action
    if isinstance(run.folder, Path) and run.folder.is_symlink():
        action, why = "keep", "a link to elsewhere"
    elif until is None:
        if read and read.manifest.published_at > now - grace:
            reason = reason or "just published"  # and perhaps not judged yet
        action, why = ("keep", reason) if reason else ("mark", "old enough")
    elif not prunable:
        action, why = "gone", f"since {pruned.pruned_at:%Y-%m-%d %H:%M}" if pruned else ""
    elif reason and all(path in there for path in pruned_paths):
        action, why = "restore", reason
    else:
        over = until <= now
        action, why = ("delete" if over else "wait"), f"{'since' if over else 'until'} {until:%Y-%m-%d %H:%M}"
    return PruneDecision(run, action, why, pruned, size_of(list(there.values())), size_of(prunable))
