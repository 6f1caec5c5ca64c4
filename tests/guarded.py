"""Loads each weights file of a folder, and dies of what one of them would make it do.

`python -m tests.guarded FOLDER` prints a line of JSON for each file, in the order of the names. Files in FOLDER/good
are loaded first, before the guard is up, so that nothing is left to be imported on the way.
"""

import encodings.raw_unicode_escape  # noqa: F401  pickletools decodes with it, whatever it is given
import json
import logging
import os
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np

from mnist_pipeline.core.network import BOOK
from mnist_pipeline.errors import WeightsError
from mnist_pipeline.weights.files import load_weights

HEADROOM_BYTES = 16 << 20  # of address space beyond what the process has when its first file comes
COPIES = 2  # of the file, beyond that
FILE_SECONDS = 5  # of processor
# All that a reader does which Python tells of: it opens the file that it was given, and parses the literal at the
# head of an .npy without running it.
ALLOWED = {"open", "compile"}


class Forbidden(BaseException):
    """No `except Exception` holds it back."""


def main(folder: Path) -> None:
    """Load the files."""
    for path in sorted((folder / "good").iterdir()):
        outcome_of(path)
    seen: list[str] = []
    current: list[Path] = []

    def guard(event: str, arguments: tuple[Any, ...]) -> None:
        if not current or harmless(event, arguments, current[0]):
            return
        seen.append(f"{event} {arguments!r:.100}")
        raise Forbidden(seen[-1])

    sys.addaudithook(guard)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable()  # it looks at frames, which Python tells of: a file of float64 is worth a warning
    limit = size_bytes() + HEADROOM_BYTES
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        allowed = limit + COPIES * path.stat().st_size
        resource.setrlimit(resource.RLIMIT_AS, (allowed, resource.RLIM_INFINITY))
        used = resource.getrusage(resource.RUSAGE_SELF)
        soft = int(used.ru_utime + used.ru_stime) + FILE_SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))
        seen.clear()
        current.append(path)
        outcome = outcome_of(path)
        current.clear()
        line = json.dumps({"file": path.name, "outcome": outcome, "did": seen})
        print(line, flush=True)  # noqa: T201


def harmless(event: str, arguments: tuple[Any, ...], path: Path) -> bool:
    if event == "open":
        file, mode, flags = arguments  # of `os.open` without a mode; of what that has opened its number
        if mode is None:
            return str(file) == str(path) and not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        return isinstance(file, int) and mode in ("r", "rb")
    return event in ALLOWED


def outcome_of(path: Path) -> str:
    try:
        network = load_weights(path)
    except WeightsError as error:
        return str(error)
    except BaseException as error:
        return f"raised {error!r:.300}"
    sound = all(tensor.dtype == np.float32 and np.isfinite(tensor).all() for tensor in network.values())
    return "network" if sound and {name: network[name].shape for name in network} == BOOK.shapes else "no network"


def size_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
