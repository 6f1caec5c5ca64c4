"""Standard streams that hold for the length of a command: what cannot be printed does not change what was done.

A reader that went away (`| head`) is no error. A full disk under stdout is one line on stderr, and an exit code of its
own only where printing was all that the command had to do: that a run is published must not be called a failure.
"""

import codecs
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

# In an encoding without block characters a picture is still one, and any other character is escaped.
_BLOCKS = {"▄": "o", "▀": '"', "█": "#"}


class _Stream:
    """A text stream whose writing never fails: after the first error all goes to the null device."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.error: OSError | None = None
        with suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="mnist_pipeline")

    def write(self, text: str) -> int:
        with self._noted():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._noted():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = self.error or error
            with suppress(OSError, ValueError):  # what is buffered, and child processes, go there too
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)


@contextmanager
def lasting() -> Iterator[None]:
    """Let printing never fail in the block; at its end one line on stderr says if stdout is not complete."""
    _open_missing()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = out, err = _Stream(sys.stdout), _Stream(sys.stderr)
    try:
        yield
    finally:
        if is_lost():
            err.write(f"warning: stdout: {out.error}; not all is printed; the exit code is that of the work\n")
        err.flush()
        sys.stdout, sys.stderr = before


def is_lost() -> bool:
    """Whether something was not written to stdout that somebody wanted to have."""
    sys.stdout.flush()
    error = getattr(sys.stdout, "error", None)
    return error is not None and error.errno != errno.EPIPE


def _open_missing() -> None:
    """Open closed standard streams on the null device: else the next file to be opened would be in their place."""
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(null, True)  # servers and workers need them as well
    os.close(null)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115  for the whole process


def _substitute(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError), "streams are written to"
    lost = error.object[error.start : error.end]
    return "".join(_BLOCKS.get(each) or each.encode("ascii", "backslashreplace").decode() for each in lost), error.end


codecs.register_error("mnist_pipeline", _substitute)
