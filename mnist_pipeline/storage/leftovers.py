"""What lies in the outputs folder, and what of it nobody needs: unused shard sets, and what attempts left behind.

Whatever was written lately may be somebody's at work, and is left alone.
"""

import uuid
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mnist_pipeline.errors import DamagedError
from mnist_pipeline.storage.commits import CONFLICT
from mnist_pipeline.storage.files import UNFINISHED, Found, remove_folder, subfolders, walk
from mnist_pipeline.storage.objects import ObjectPath, Place
from mnist_pipeline.storage.runs import list_runs
from mnist_pipeline.storage.shards import SHARDS
from mnist_pipeline.storage.staging import DATA, STAGING, is_locked, take_away
from mnist_pipeline.storage.verdicts import VERDICTS, find_verdict


@dataclass(frozen=True)
class Inventory:
    """All files of an outputs folder, by the first two parts of their paths: ("runs", RUN_ID), ("shards", SET), ..."""

    outputs: Place
    files: Mapping[tuple[str, str], Sequence[Found]]

    @classmethod
    def take(cls, outputs: Place) -> "Inventory":
        files: dict[tuple[str, str], list[Found]] = defaultdict(list)
        for found in walk(outputs):
            top, *below = found.path.parts
            files[top, below[0] if below else ""].append(found)
        return cls(outputs, files)

    def names(self, top: str) -> list[str]:
        """The names below a top-level folder."""
        return sorted(name for first, name in self.files if first == top)

    def of(self, *places: tuple[str, str]) -> list[Found]:
        """The files below these places."""
        return [found for place in places for found in self.files.get(place, ())]

    def use_bytes(self) -> dict[str, int]:
        """What each top-level name takes, the largest first."""
        use: dict[str, int] = defaultdict(int)
        for (top, _), some in self.files.items():
            use[top] += size_of(some)
        return dict(sorted(use.items(), key=lambda item: -item[1]))


@dataclass(frozen=True)
class Leftover:
    """A folder or file that nobody needs."""

    place: Place
    size_bytes: int


def size_of(files: Sequence[Found]) -> int:
    """What files take together, in bytes."""
    return sum(found.size_bytes for found in files)


def newest_of(files: Sequence[Found]) -> datetime:
    """When the last of some files was written."""
    return max(found.written_at for found in files)


def unused_shards(inventory: Inventory, used: Collection[str], before: datetime) -> Iterator[Leftover]:
    """Shard sets that are not among the used ones, and were complete before that time."""
    for name in inventory.names(SHARDS):
        some = inventory.of((SHARDS, name))
        if name not in used and newest_of(some) < before:
            yield Leftover(inventory.outputs / SHARDS / name, size_of(some))


def abandoned(inventory: Inventory, before: datetime, conflicts_before: datetime) -> Iterator[Leftover]:
    """What attempts have left behind that ended before that time, and conflicts that were kept before another."""
    for name in inventory.names(STAGING):
        some, place = inventory.of((STAGING, name)), inventory.outputs / STAGING / name
        limit = conflicts_before if name.startswith(CONFLICT) else before
        if newest_of(some) < limit and not (isinstance(place, Path) and _is_in_use(place)):
            yield Leftover(place, size_of(some))
    for (top, _), files in inventory.files.items():
        for found in files:
            if top != STAGING and UNFINISHED.fullmatch(found.path.name) and found.written_at < before:
                yield Leftover(inventory.outputs / found.path, found.size_bytes)
    if isinstance(inventory.outputs, ObjectPath):
        yield from _unpublished(inventory, before)


def _is_in_use(place: Path) -> bool:
    return is_locked(place if place.suffix == ".lock" else place.parent / f"{place.name}.lock")


def _unpublished(inventory: Inventory, before: datetime) -> Iterator[Leftover]:
    """In a store: files in `data/` that no run and no verdict lists. Those of a damaged one are left alone."""
    outputs = inventory.outputs
    listed: set[str] = set()
    unknown: set[str] = set()
    for run in list_runs(outputs):
        try:
            listed |= {str(run.files / file.path) for file in run.manifest().files}
        except DamagedError:
            unknown.add(run.name.run_id)
    for folder in subfolders(outputs / VERDICTS):
        for each in subfolders(folder):
            try:
                verdict = find_verdict(outputs, folder.name, each.name)
            except DamagedError:
                unknown.add(folder.name)
                continue
            listed |= {str(verdict.files / file.path) for file in verdict.document.files} if verdict else set()
    for name in inventory.names(DATA):
        if not any(name.endswith(run_id) for run_id in unknown):
            for found in inventory.of((DATA, name)):
                place = outputs / found.path
                if str(place) not in listed and found.written_at < before:
                    yield Leftover(place, found.size_bytes)


def sweep_shards(outputs: Place, folder: Place) -> bool:
    """Delete a shard set, if no run has begun to use it meanwhile; whether it is gone."""
    if not isinstance(folder, Path):
        remove(folder)
        return True
    away = outputs / STAGING / f"swept-{folder.name}-{uuid.uuid4().hex[:8]}"
    assert isinstance(away, Path), f"{folder} is not in {outputs}"
    away.parent.mkdir(exist_ok=True)
    if not take_away(folder, away):
        return False
    remove(away)
    return True


def remove(place: Place) -> None:
    """Delete a file, or a folder with all below it; it may be gone already."""
    if isinstance(place, ObjectPath):
        for each, _, _ in [*place.walk()]:
            each.unlink()
        place.unlink()
    elif place.is_dir():
        remove_folder(place)
    else:
        place.unlink(missing_ok=True)
