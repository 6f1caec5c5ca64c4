"""Which runs give up their predictions, and how: housekeeping for outputs that grow by a run a night.

A run that is not kept is marked first, and says so to whoever wants to read it. Its predictions and its report are
deleted by a later prune, when those who had begun to read have had time to finish. Manifest, summary and verdicts stay.
The rule itself is in `core/retention.py`; what is swept beside is found by `leftovers.py`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from mnist_pipeline.core.retention import Aged, Retention, kept
from mnist_pipeline.errors import DamagedError
from mnist_pipeline.storage import tables
from mnist_pipeline.storage.baselines import read_baselines
from mnist_pipeline.storage.files import create_file, outputs_errors
from mnist_pipeline.storage.leftovers import (
    Inventory,
    Leftover,
    abandoned,
    newest_of,
    remove,
    size_of,
    sweep_shards,
    unused_shards,
)
from mnist_pipeline.storage.manifest import Manifest, Pruned
from mnist_pipeline.storage.objects import ObjectPath, Place
from mnist_pipeline.storage.runs import PRUNED, RUNS, Run, files_of_table, list_runs
from mnist_pipeline.storage.shards import shard_set_of
from mnist_pipeline.storage.staging import DATA, STAGING, is_locked, undisturbed
from mnist_pipeline.storage.verdicts import STAGE_PREFIX, VERDICTS, newest_verdict
from mnist_pipeline.storage.views import REPORTS, update_views

# keep: nothing happens. mark: it is said that predictions and report are given up. wait: that is said, and readers have
# time. delete: that time is over. gone: they have been deleted. restore: marked, and to be kept after all.
Action = Literal["keep", "mark", "wait", "delete", "gone", "restore"]


@dataclass(frozen=True)
class Fate:
    """What becomes of a run, and why; all that it takes, and what of it are predictions and report."""

    run: Run
    action: Action
    why: str
    size_bytes: int
    prunable_bytes: int


@dataclass(frozen=True)
class Prune:
    """What a prune would do."""

    fates: tuple[Fate, ...]  # oldest first
    shards: tuple[Leftover, ...]
    staging: tuple[Leftover, ...]
    use_bytes: Mapping[str, int]  # by top-level name, the largest first

    def of(self, *actions: Action) -> list[Fate]:
        """The runs with which one of these is done."""
        return [fate for fate in self.fates if fate.action in actions]

    @property
    def frees_bytes(self) -> int:
        """What carrying it out gives back."""
        swept = sum(leftover.size_bytes for leftover in (*self.shards, *self.staging))
        return swept + sum(fate.prunable_bytes for fate in self.of("delete"))


def plan_prune(outputs: Place, retention: Retention, grace: timedelta, now: datetime) -> Prune:
    """Decide what a prune does, and change nothing.

    Args:
        outputs: the outputs folder.
        retention: which runs keep their predictions, beside the latest, the baseline, the last that passed, and
            those of which an attempt is in progress.
        grace: how long marked predictions, and what attempts have left behind, stay for whoever is at work with them.
        now: in UTC.

    Raises:
        DamagedError: the file of the baselines is altered.
        OutputsError: the folder cannot be read.
    """
    with outputs_errors(f"cannot look through {outputs}"):
        inventory = Inventory.take(outputs)
        manifests = _manifests(outputs)
        reasons = kept(
            [Aged(run.name.run_id, run.name.run_date, _kind(run)) for run in manifests],
            retention,
            now.date(),
            needed=_needed(outputs, manifests) | _in_progress(inventory, now - grace),
        )
        fates = [_fate(run, manifest, inventory, reasons, grace, now) for run, manifest in manifests.items()]
        used = {
            shard_set_of(outputs, manifest.identity).folder.parent.name
            for fate, manifest in zip(fates, manifests.values(), strict=True)
            if manifest and fate.action not in ("delete", "gone")
        }
        return Prune(
            fates=tuple(fates),
            shards=tuple(unused_shards(inventory, used, now - grace)),
            staging=tuple(abandoned(inventory, now - grace, now - max(grace, timedelta(retention.keep_days)))),
            use_bytes=inventory.use_bytes(),
        )


def carry_out(outputs: Place, prune: Prune, now: datetime) -> list[str]:
    """Do what was decided; what has come into use meanwhile is left alone.

    Returns:
        What was left alone, a line each.

    Raises:
        OutputsError: something cannot be written or deleted; the same command goes on from there.
    """
    left = []
    with outputs_errors(f"cannot prune {outputs}"):
        for fate in prune.of("mark", "delete", "restore"):
            if not isinstance(outputs, Path):
                _do(outputs, fate, now)
                continue
            with undisturbed(outputs, fate.run.name.run_id) as alone:
                if alone:
                    _do(outputs, fate, now)
                else:
                    left.append(f"{fate.run.name.run_id}: an attempt is in progress")
        left += [f"{each.place}: a run uses them" for each in prune.shards if not sweep_shards(outputs, each.place)]
        for leftover in prune.staging:
            remove(leftover.place)
    update_views(outputs)
    return left


def _do(outputs: Place, fate: Fate, now: datetime) -> None:
    run = fate.run
    if fate.action == "mark":
        record = Pruned(schema_version=tables.SCHEMA_VERSION, run_id=run.name.run_id, pruned_at=now)
        create_file(run.folder / PRUNED, record.to_bytes(), outputs / STAGING)
    elif fate.action == "restore":
        (run.folder / PRUNED).unlink()
    elif isinstance(run.folder, Path):
        away = run.folder.parent.parent / STAGING / f"pruned-{run.name.run_id}"
        remove(away)
        if (predictions := run.folder / "predictions").exists():
            predictions.rename(away)  # so that nobody who comes now sees a part of them
        remove(away)
        remove(outputs / REPORTS / f"{run.name.run_id}.html")
    else:
        for file in files_of_table(run.manifest(), tables.PREDICTIONS):
            remove(run.files / file.path)
        remove(outputs / REPORTS / f"{run.name.run_id}.html")


def _manifests(outputs: Place) -> dict[Run, Manifest | None]:
    """All runs, oldest first, each with its manifest; None if it, or the mark of a prune, is damaged."""
    manifests: dict[Run, Manifest | None] = {}
    for run in list_runs(outputs):
        try:
            run.pruned()
            manifests[run] = run.manifest()
        except DamagedError:
            manifests[run] = None

    def age(run: Run) -> tuple[object, ...]:
        manifest = manifests[run]
        return run.name.run_date, manifest is not None, manifest and manifest.published_at, run.name.run_id

    return {run: manifests[run] for run in sorted(manifests, key=age)}


def _kind(run: Run) -> str:
    return f"{run.name.dataset}/{run.name.split}"


def _needed(outputs: Place, manifests: Mapping[Run, Manifest | None]) -> dict[str, str]:
    """The runs that are kept in any case, with the reason."""
    needed: dict[str, str] = {}
    latest, passed = set(), set()
    for run in reversed(list(manifests)):
        manifest = manifests[run]
        if manifest is None:
            needed[run.name.run_id] = "damaged"
            continue
        if (kind := _kind(run)) not in passed:
            verdict = newest_verdict(outputs, manifest.content)
            if verdict and verdict.document.outcome == "pass":
                passed.add(kind)
                needed[run.name.run_id] = "the last that passed"
        if kind not in latest:
            latest.add(kind)
            needed[run.name.run_id] = "the latest"
    return needed | dict.fromkeys(read_baselines(outputs).values(), "the baseline")


def _in_progress(inventory: Inventory, since: datetime) -> dict[str, str]:
    """The runs that are made or judged now: on disk a lock is held, in a store something was written since then."""
    outputs = inventory.outputs
    if isinstance(outputs, ObjectPath):
        staged = [name for name in inventory.names(STAGING) if newest_of(inventory.of((STAGING, name))) > since]
    else:
        staged = [path.stem for path in (outputs / STAGING).glob("*.lock") if is_locked(path)]
    return {re.sub(STAGE_PREFIX, "", name).partition(".")[0]: "in progress" for name in staged}


def _fate(
    run: Run,
    manifest: Manifest | None,
    inventory: Inventory,
    reasons: Mapping[str, str],
    grace: timedelta,
    now: datetime,
) -> Fate:
    name = run.name.run_id
    every = inventory.of((RUNS, name), (VERDICTS, name), (DATA, name), (REPORTS, f"{name}.html"))
    given_up = [file.path for file in files_of_table(manifest, tables.PREDICTIONS)] if manifest else []
    there = {str(inventory.outputs / each.path): each for each in every}
    prunable = [there[path] for path in (str(run.files / path) for path in given_up) if path in there]
    prunable += inventory.of((REPORTS, f"{name}.html"))
    reason, pruned = reasons.get(name), run.pruned() if manifest else None
    until = None if pruned is None else pruned.pruned_at + grace
    action: Action
    if until is None:
        action, why = ("keep", reason) if reason else ("mark", "")
    elif not prunable:
        action, why = "gone", ""
    elif reason and all(str(run.files / path) in there for path in given_up):
        action, why = "restore", reason
    else:
        action, why = ("delete", "") if until <= now else ("wait", f"until {until:%Y-%m-%d %H:%M}")
    return Fate(run, action, why, size_of(every), size_of(prunable))
