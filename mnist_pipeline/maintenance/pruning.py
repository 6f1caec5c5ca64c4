"""Decides which runs have their predictions pruned, and does it: housekeeping for outputs that grow by a run a night.

A run to prune is marked first, and says so to any reader. Its predictions and its report are deleted by a later prune,
when those who had begun to read have had time to finish; until then the next prune that keeps it takes the mark back,
so that a period typed too short costs nothing. Manifest, summary and verdicts stay. Accepted: a reader that takes more
than the grace period loses its files. The rule itself is in `core/retention.py`; what is collected besides is found by
`orphans.py`.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal

from mnist_pipeline import tables
from mnist_pipeline.core.gates import Outcome
from mnist_pipeline.core.retention import Aged, Retention, kept
from mnist_pipeline.errors import DamagedError, OutputsError
from mnist_pipeline.index import try_index
from mnist_pipeline.maintenance.orphans import (
    MAX_WRITE_TIME,
    Inventory,
    Orphan,
    abandoned,
    collect,
    size_of,
    unused_shards,
)
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.counting import counting
from mnist_pipeline.runs.decisions import standing_of
from mnist_pipeline.runs.lookup import list_runs
from mnist_pipeline.runs.manifest import Manifest, Pruned
from mnist_pipeline.runs.outputs import Outputs, shard_set_of
from mnist_pipeline.runs.run import Run, files_of_table
from mnist_pipeline.runs.staging import undisturbed
from mnist_pipeline.store.base import Entry
from mnist_pipeline.store.files import FileRecord, prefetch
from mnist_pipeline.verdicts.baselines import read_baselines
from mnist_pipeline.verdicts.records import newest_verdict
from mnist_pipeline.views import update_views

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


def plan_prune(outputs: Outputs, retention: Retention, grace: timedelta, now: datetime) -> Prune:
    """Decide what a prune does, and change nothing.

    Args:
        outputs: the outputs folder.
        retention: which runs keep their predictions, beside the latest, the baseline, the last that passed or had
            nothing judged, and those with an attempt in progress.
        grace: how long marked predictions, what attempts have left behind, and what was published stay untouched for
            the processes that use them.
        now: in UTC.

    Raises:
        DamagedError: the file of the baselines is altered.
        OutputsError: the folder cannot be read.
    """
    inventory = Inventory.take(outputs)
    runs, unread = _read_runs(outputs)
    reasons = kept(
        [Aged(run.name.run_id, run.name.run_date, run.name.split_of) for run in runs],
        retention,
        now.date(),
        needed=_needed(inventory, runs) | _in_progress(inventory, now - grace),
    )
    decisions = [_decide(run, read, inventory, reasons, grace, now) for run, read in runs.items()]
    used = {
        layout.shard_set(shard_set_of(read.manifest))
        for decision, read in zip(decisions, runs.values(), strict=True)
        if read and decision.action not in ("delete", "gone")
    }
    return Prune(
        decisions=tuple(decisions),
        shards=() if unread else tuple(unused_shards(inventory, used, now - grace)),  # it may have been made from any
        staging=tuple(
            abandoned(
                inventory,
                before=now - max(grace, MAX_WRITE_TIME),
                conflicts_before=now - max(grace, timedelta(retention.keep_days)),
            )
        ),
        use_bytes=inventory.use_bytes(),
    )


def carry_out(outputs: Outputs, prune: Prune, now: datetime) -> list[str]:
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
                outputs.store.delete(_record_of(decision.run))
            else:
                decision.run.manifest()  # it may have been moved away
                record = Pruned(schema_version=tables.SCHEMA_VERSION, run_id=decision.run.name.run_id, pruned_at=now)
                outputs.store.create(_record_of(decision.run), record.to_bytes())
    update_views(outputs)  # before anything is deleted: readers go by them
    for decision in prune.of("delete"):
        with _or_left(decision.run.name.run_id, left), _alone(outputs, decision):
            _delete(outputs, decision.run)
    for orphan in (*prune.shards, *prune.staging):
        with _or_left(str(outputs.path(orphan.name)), left):
            collect(outputs, orphan)
    if changed := prune.of("mark", "restore", "delete"):
        try_index(outputs, *(decision.run.name.run_id for decision in changed))
    return left


@contextmanager
def _or_left(what: str, left: list[str]) -> Iterator[None]:
    try:
        yield
    except OutputsError as error:  # one run must not keep the others from being pruned
        left.append(f"{what}: {error}")


@contextmanager
def _alone(outputs: Outputs, decision: PruneDecision) -> Iterator[None]:
    """Exclude attempts at a run that is still as it was when the decision was made.

    Raises:
        OutputsError: it is not, or an attempt is in progress.
    """
    with undisturbed(outputs, decision.run.name.run_id) as alone:
        if not alone:
            raise OutputsError("an attempt is in progress")
        if decision.run.pruned() != decision.pruned:
            raise OutputsError("it has been run again, or pruned by another, meanwhile")
        yield


def _delete(outputs: Outputs, run: Run) -> None:
    if outputs.store.has_rename:
        outputs.store.delete(run.predictions)
    else:  # attempts that were not published, or not yet, have their files in the same folder
        for file in files_of_table(run.manifest(), tables.PREDICTIONS):
            outputs.store.delete(_name_of(run, file))
    outputs.store.delete(layout.report(run.name.run_id))


def _record_of(run: Run) -> str:
    return f"{layout.run_folder(run.name.run_id)}/{layout.PRUNED}"


def _read_runs(outputs: Outputs) -> tuple[dict[Run, _Read | None], bool]:
    """All runs, oldest first, each with its manifest and mark; None if one of them is damaged or cannot be read.

    And whether one cannot be read.
    """
    unread = False

    def read(run: Run) -> _Read | None:
        nonlocal unread
        try:
            return _Read(run.manifest(), run.pruned())
        except OutputsError as error:
            unread = unread or not isinstance(error, DamagedError)
            return None

    runs = list_runs(outputs)
    found = dict(zip(runs, prefetch(read, runs), strict=True))

    def age(run: Run) -> tuple[object, ...]:
        known = found[run]
        return run.name.run_date, known is not None, known and known.manifest.published_at, run.name.run_id

    return {run: found[run] for run in sorted(found, key=age)}, unread


def _needed(inventory: Inventory, runs: Mapping[Run, _Read | None]) -> dict[str, str]:
    """The runs that are kept in any case, with the reason."""
    needed: dict[str, str] = {}
    since, found = counting(inventory.outputs), defaultdict[str, set[Outcome]](set)
    latest: dict[str, tuple[date, datetime, str]] = {}
    for run in reversed(list(runs)):
        read, split = runs[run], run.name.split_of
        if read is None:
            needed[run.name.run_id] = "damaged, or cannot be read"
            continue
        counted_at = since(run)
        if counted_at is None:
            continue
        if "pass" not in found[split]:  # before it nothing is looked for
            verdict = newest_verdict(inventory.outputs, read.manifest.content)
            accepted = standing_of(inventory.outputs, read.manifest.content) == "accepted"
            outcome = "pass" if accepted else verdict and verdict.outcome
            if outcome and outcome in REFERENCES.keys() - found[split]:
                needed[run.name.run_id] = REFERENCES[outcome]
                if read.pruned is None and _has_predictions(inventory, run, read.manifest):
                    found[split].add(outcome)  # else judging goes by an older one
        order = run.name.run_date, counted_at, run.name.run_id
        latest[split] = max(latest.get(split, order), order)
    needed |= {run_id: "the latest" for *_, run_id in latest.values()}
    return needed | dict.fromkeys(read_baselines(inventory.outputs).values(), "the baseline")


def _has_predictions(inventory: Inventory, run: Run, manifest: Manifest) -> bool:
    sizes = {entry.name: entry.size_bytes for entry in _files_of(inventory, run)}
    files = files_of_table(manifest, tables.PREDICTIONS)
    return all(sizes.get(_name_of(run, file)) == file.size_bytes for file in files)


def _name_of(run: Run, file: FileRecord) -> str:
    return f"{run.outputs.files_of_run(run.name.run_id)}/{file.path}"


def _files_of(inventory: Inventory, run: Run) -> list[Entry]:
    name = run.name.run_id
    report = layout.report(name).rpartition("/")[2]
    return inventory.of((layout.RUNS, name), (layout.VERDICTS, name), (layout.DATA, name), (layout.REPORTS, report))


def _in_progress(inventory: Inventory, since: datetime) -> dict[str, str]:
    """The runs that are made or judged now: a lock is held or, where there are none, a file was staged since then."""
    store = inventory.outputs.store
    staged = (
        store.held_locks()
        if store.has_rename
        else [
            name
            for (top, name), some in inventory.files.items()
            if top == layout.STAGING and any(entry.written_at > since for entry in some)
        ]
    )
    return {layout.VERDICT_STAGING.sub("", name).partition(".")[0]: "in progress" for name in staged}


def _decide(
    run: Run,
    read: _Read | None,
    inventory: Inventory,
    reasons: Mapping[str, str],
    grace: timedelta,
    now: datetime,
) -> PruneDecision:
    name = run.name.run_id
    there = {entry.name: entry for entry in _files_of(inventory, run)}
    files = files_of_table(read.manifest, tables.PREDICTIONS) if read else []
    predictions = [_name_of(run, file) for file in files]
    prunable = [there[each] for each in (*predictions, layout.report(name)) if each in there]
    reason, pruned = reasons.get(name), read.pruned if read else None
    until = None if pruned is None else pruned.pruned_at + grace
    action: Action
    if run.outputs.store.has_rename and not inventory.of((layout.RUNS, name)):
        action, why = "keep", "a link to elsewhere"
    elif until is None:
        if read and read.manifest.published_at > now - grace:
            reason = reason or "just published"  # and perhaps not judged yet
        action, why = ("keep", reason) if reason else ("mark", "old enough")
    elif not prunable:
        action, why = "gone", f"since {pruned.pruned_at:%Y-%m-%d %H:%M}" if pruned else ""
    elif reason and all(each in there for each in predictions):
        action, why = "restore", reason
    else:
        over = until <= now
        action, why = ("delete" if over else "wait"), f"{'since' if over else 'until'} {until:%Y-%m-%d %H:%M}"
    return PruneDecision(run, action, why, pruned, size_of(list(there.values())), size_of(prunable))
