"""What lies in an outputs folder, and what of it nobody needs: unused shard sets, and what attempts left behind.

Whatever was written lately may be somebody's at work, and so may what is locked: both are left alone. Touches nothing
but what has a name that we give.
"""

import re
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

from mnist_pipeline.datasets.shards import SHARDS
from mnist_pipeline.errors import OutputsError
from mnist_pipeline.runs.publishing import CONFLICT
from mnist_pipeline.runs.staging import STAGING
from mnist_pipeline.store.files import UNFINISHED, Found, remove_folder, walk
from mnist_pipeline.store.locks import is_locked, take_away, undisturbed
from mnist_pipeline.store.objects import Location, ObjectPath
from mnist_pipeline.weights.files import WEIGHTS

_SHARD_SET = re.compile(r"[a-z0-9][a-z0-9_-]*-[0-9a-f]{12}")
# A file is written within this time, however short a grace is asked for.
MAX_WRITE_TIME = timedelta(hours=1)


@dataclass(frozen=True)
class Inventory:
    """All files of an outputs folder, by the first two parts of their paths: ("runs", RUN_ID), ("shards", SET), ..."""

    outputs: Location
    files: Mapping[tuple[str, str], Sequence[Found]]

    @classmethod
    def take(cls, outputs: Location) -> "Inventory":
        """Look through the folder, and through what a link at its top leads to."""
        files: dict[tuple[str, str], list[Found]] = defaultdict(list)
        for found in _walk_all(outputs):
            top, *below = found.path.parts
            files[top, below[0] if below else ""].append(found)
        return cls(outputs, files)

    def of(self, *keys: tuple[str, str]) -> list[Found]:
        """The files below these places."""
        return [found for key in keys for found in self.files.get(key, ())]

    def use_bytes(self) -> dict[str, int]:
        """What each top-level name takes, the largest first."""
        use: dict[str, int] = defaultdict(int)
        for (top, _), some in self.files.items():
            use[top] += size_of(some)
        return dict(sorted(use.items(), key=lambda item: -item[1]))


@dataclass(frozen=True)
class Orphan:
    """A folder or file that nobody needs."""

    path: Path
    size_bytes: int


def size_of(files: Sequence[Found]) -> int:
    """What files take together, in bytes."""
    return sum(found.size_bytes for found in files)


def unused_shards(inventory: Inventory, used: Collection[str], before: datetime) -> Iterator[Orphan]:
    """Shard sets that are not among the used ones, and were written before that time."""
    if isinstance(inventory.outputs, Path):
        for path in _below(inventory.outputs / SHARDS):
            some = inventory.of((SHARDS, path.name))
            ours = _SHARD_SET.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
            if ours and path.name not in used and _written_at(path, some) < before:
                yield Orphan(path, size_of(some))


def abandoned(inventory: Inventory, before: datetime, conflicts_before: datetime) -> Iterator[Orphan]:
    """What attempts have left behind that ended before that time, and conflicts that were kept before another."""
    if not isinstance(inventory.outputs, Path):
        return
    for path in _below(inventory.outputs / STAGING):
        some = inventory.of((STAGING, path.name))
        limit = conflicts_before if path.name.startswith(CONFLICT) else before
        if _written_at(path, some) < limit and not is_locked(_lock_of(path)):
            yield Orphan(path, size_of(some))
    for found in (found for (top, _), some in inventory.files.items() if top == WEIGHTS for found in some):
        if UNFINISHED.fullmatch(found.path.name) and found.written_at < before:
            yield Orphan(inventory.outputs / found.path, found.size_bytes)


def collect(outputs: Path, orphan: Orphan) -> None:
    """Delete it; it may be gone already.

    Raises:
        OutputsError: it has come into use meanwhile.
        OSError: it cannot be deleted.
    """
    path = orphan.path
    away = outputs / STAGING / f"swept-{path.name}-{uuid.uuid4().hex[:8]}"
    if path.parent.name == SHARDS:
        away.parent.mkdir(exist_ok=True)
        if not take_away(path, away):
            raise OutputsError("a run uses them")
    elif path.is_dir() and not path.is_symlink():
        with undisturbed(outputs / STAGING, path.name) as alone:
            if not alone:
                raise OutputsError("an attempt is at work there")
            path.rename(away)
    elif path.suffix == ".lock":
        with undisturbed(outputs / STAGING, path.stem):
            return  # which removes it
    else:
        path.unlink(missing_ok=True)
    remove_folder(away)


def _walk_all(outputs: Location) -> Iterator[Found]:
    if isinstance(outputs, ObjectPath):
        yield from walk(outputs)
        return
    yield from (found for found in walk(outputs) if len(found.path.parts) == 1)
    for top in _below(outputs):
        if top.is_dir():
            yield from (replace(each, path=PurePosixPath(top.name, each.path)) for each in walk(top))


def _below(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _written_at(path: Path, files: Sequence[Found]) -> datetime:
    if files:
        return max(found.written_at for found in files)
    try:
        return datetime.fromtimestamp(path.lstat().st_mtime, UTC)
    except FileNotFoundError:
        return datetime.now(UTC)


def _lock_of(path: Path) -> Path:
    return path if path.suffix == ".lock" else path.parent / f"{path.name}.lock"
