"""What is in an outputs folder, and what of it nothing needs: unused shard sets, and what killed attempts left behind.

Whatever was written lately may be in use by a process, and so may what is locked: both are left alone. Only names that
this package gives are touched. A store without renames has no locks, and nothing in it is collected.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from mnist_pipeline.errors import OutputsError
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.outputs import Outputs, shard_lock
from mnist_pipeline.runs.staging import undisturbed
from mnist_pipeline.store.base import LOCK, Entry

# A file is written within this time, however short a grace is asked for.
MAX_WRITE_TIME = timedelta(hours=1)


@dataclass(frozen=True)
class Inventory:
    """All files of an outputs folder, by the first two parts of their names: ("runs", RUN_ID), ("shards", SET), ..."""

    outputs: Outputs
    files: Mapping[tuple[str, str], Sequence[Entry]]

    @classmethod
    def take(cls, outputs: Outputs) -> "Inventory":
        """List the folder; what links lead to is not looked at."""
        files: dict[tuple[str, str], list[Entry]] = defaultdict(list)
        for entry in outputs.store.list("", tolerant=True):
            top, *below = entry.name.split("/")
            files[top, below[0] if below else ""].append(entry)
        return cls(outputs, files)

    def of(self, *keys: tuple[str, str]) -> list[Entry]:
        """The files below these folders."""
        return [entry for key in keys for entry in self.files.get(key, ())]

    def use_bytes(self) -> dict[str, int]:
        """What each top-level name takes, the largest first."""
        use: dict[str, int] = defaultdict(int)
        for (top, _), some in self.files.items():
            use[top] += size_of(some)
        return dict(sorted(use.items(), key=lambda item: -item[1]))


@dataclass(frozen=True)
class Orphan:
    """A folder or file that nothing needs."""

    name: str
    size_bytes: int


def size_of(files: Sequence[Entry]) -> int:
    """What files take together, in bytes."""
    return sum(entry.size_bytes for entry in files)


def unused_shards(inventory: Inventory, used: Collection[str], before: datetime) -> Iterator[Orphan]:
    """Shard sets whose folders are not among the used ones, and that were written before that time."""
    if not inventory.outputs.store.has_rename:
        return
    for (top, name), some in sorted(inventory.files.items()):
        folder = layout.shard_set(name)
        ours = top == layout.SHARDS and layout.SHARD_SET.fullmatch(name)
        if ours and folder not in used and max(entry.written_at for entry in some) < before:
            yield Orphan(folder, size_of(some))


def abandoned(inventory: Inventory, before: datetime, conflicts_before: datetime) -> Iterator[Orphan]:
    """What attempts have left behind that ended before that time, and conflicts that were kept before another."""
    store = inventory.outputs.store
    if not store.has_rename:
        return
    held = set(store.held_locks())
    for name in filter(layout.STAGED.fullmatch, store.children(layout.STAGING)):
        some = inventory.of((layout.STAGING, name))
        limit = conflicts_before if name.startswith(layout.CONFLICT) else before
        old = all(entry.written_at < limit for entry in some)  # an empty directory is held, or nobody's
        if old and name.removesuffix(LOCK) not in held:
            yield Orphan(layout.staging_folder(name), size_of(some))


def collect(outputs: Outputs, orphan: Orphan) -> None:
    """Delete an orphan; it may be gone already.

    Raises:
        OutputsError: it has come into use meanwhile, or cannot be deleted.
    """
    top, _, name = orphan.name.partition("/")
    if top == layout.SHARDS:
        with outputs.store.lock(shard_lock(orphan.name), wait=False) as alone:
            if not alone:
                raise OutputsError("a run uses them")
            outputs.store.delete(orphan.name)
        return
    with undisturbed(outputs, name.removesuffix(LOCK)) as alone:
        if not alone:
            raise OutputsError("an attempt is in progress there")
        if not name.endswith(LOCK):  # letting go of a lock deletes its file
            outputs.store.delete(orphan.name)
