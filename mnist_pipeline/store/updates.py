"""Files that are made anew from what they and others hold, by whoever comes: nobody's change is lost.

On disk one waits for the other, at a lock. In an object store each goes ahead, and begins again if a file was replaced
meanwhile.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mnist_pipeline.errors import OutputsError
from mnist_pipeline.store.files import replace_file
from mnist_pipeline.store.locks import lock
from mnist_pipeline.store.objects import Location, ObjectPath

MIN_ATTEMPTS = 20
MAX_SECONDS = 300.0
MAX_PAUSE_SECONDS = 2.0


def update(outputs: Location, alone: Location, names: Sequence[str], make: Callable[[], Mapping[str, bytes]]) -> None:
    """Replace some files by what `make` gives.

    Args:
        outputs: the folder they lie in.
        alone: the lock that keeps others from replacing the same files meanwhile; unfinished files lie beside it.
        names: of the files.
        make: what each shall hold; reads for itself what that depends on. May be called several times.

    Raises:
        OSError: a file cannot be written.
        OutputsError: in an object store others were faster time and again.
    """
    if not isinstance(outputs, ObjectPath):
        with lock(Path(alone)):
            for name, data in make().items():
                if not _holds(outputs / name, data):  # readers that open a file twice keep the one they have begun
                    replace_file(outputs / name, data, alone.parent)
        return
    begun, attempt = time.monotonic(), 0
    while attempt < MIN_ATTEMPTS or time.monotonic() - begun < MAX_SECONDS:
        attempt += 1
        # Before `make` looks: what is published later has a writer of its own, who will find these replaced.
        versions = {name: (outputs / name).read_version() for name in names}
        if all((outputs / name).replace_if_unchanged(data, versions[name]) for name, data in make().items()):
            return
        time.sleep(random.uniform(0, min(MAX_PAUSE_SECONDS, 0.05 * 2 ** min(attempt, 6))))  # noqa: S311  no secret
    raise OutputsError(
        f"cannot update {', '.join(names)} in {outputs}: expected to be alone for a moment, got others "
        f"{attempt} times in a row; bring them up to date with `mnist-pipeline reindex`"
    )


def _holds(path: Location, data: bytes) -> bool:
    try:
        return path.read_bytes() == data
    except OSError:
        return False
