"""The exceptions of the project, grouped by what the user can do about them.

    PipelineError                      everything below; carries the command's exit code
    ├── SettingsError        (2)       fix the flag, the variable or the config file
    ├── DataError            (3)       the input is rejected: fix or replace it
    │   ├── NoDataError                  what is to be evaluated is not there, or not yet
    │   ├── IdxFormatError               not an IDX file of the supported form
    │   ├── LabelError                   labels do not match the images, or are not digits
    │   ├── ChecksumError                right name, wrong bytes
    │   └── ImagesError                  images of a shape or range the network cannot take
    ├── WeightsError         (3)       the weights file is rejected: give another one
    ├── SourceError          (4)       no source has the files: give --data-dir, or fix the sources
    │   └── UnavailableError             a source was unreachable or busy: try again later
    ├── EngineError          (4)       no Prefect server answered: start it, or run with --direct
    │   └── UnauthorizedError            it rejects our credentials: give its password
    ├── OutputsError         (5)       the outputs folder cannot be used
    │   ├── RunNotFoundError             no published run has that name or date
    │   ├── RunConflictError             the same run was published with other predictions
    │   ├── PrunedError                  `mnist-pipeline prune` deleted its predictions
    │   ├── DamagedError                 a published file or shard is missing or altered
    │   ├── StoreError                   the object store rejects a request or does not answer
    │   └── MachineError                 this machine lacks disk, memory, processes or a permission
    ├── NumericalError       (6)       the computation gave NaN or infinity; nothing is published
    ├── VerdictError         (7)       the run is published, but a gate failed: check the run
    └── CheckFailedError     (8)       `mnist-pipeline doctor` found what the next night would fail of

Imports nothing from the package. Every class also derives from a matching builtin, so that callers can use plain
`except ValueError` or `except LookupError`.

Names from outside are part of messages: `shown` quotes and cuts one, `listed` several. What still is no printable
character, such as an escape sequence in a path, is escaped in every message: it must not forge a line of a log. The
secrets of an address are masked in every message, wherever it came from.
"""

import difflib
import errno
import os
import re
from collections.abc import Iterable

MAX_SHOWN = 60  # characters of a name from outside
MAX_LISTED = 5  # names
MAX_PATH = 300  # characters of a path in a message

_ADVICE = {
    "make space there": ("ENOSPC", "EDQUOT", "EFBIG"),
    "give this user the permission, or name another one": ("EACCES", "EPERM"),
    "it is mounted read-only: mount it writable, or name another one": ("EROFS",),
    "choose a shorter name": ("ENAMETOOLONG",),
    "its links lead in a circle: correct them": ("ELOOP",),
    "a file is where a folder is expected: move it away, or name another folder": ("ENOTDIR", "EEXIST"),
    "a folder is where a file is expected: move it away": ("EISDIR",),
    "keep the whole outputs folder on one disk: link the folder itself, not one in it": ("EXDEV",),
    "raise the limit of open files (ulimit -n)": ("EMFILE", "ENFILE"),
    "free memory, or raise its limit (ulimit -v)": ("ENOMEM",),
    "raise the limit of processes (ulimit -u)": ("EAGAIN",),
    "check the disk and its mount": ("EIO", "ESTALE", "ENODEV", "ENXIO", "ETIMEDOUT"),
    "another program is using it: wait for that, or end it": ("ETXTBSY", "EBUSY"),
}
_ADVICE_OF = {getattr(errno, name): advice for advice, names in _ADVICE.items() for name in names}
# User name and password of an address, up to the last @ of the word: a password may hold any sign. A path makes
# `https:/` of `https://`.
_LOGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:/+)\S*@")
_QUERY = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:/+[^\s?]*\?)\S*?(?=[\])}>'\",;:.]*(?:\s|$))")
# What begins as an address, alone or as the value of an option, is one: its password may hold spaces.
_IS_ADDRESS = re.compile(r"(--?[\w-]+=)?\s*[A-Za-z][A-Za-z0-9+.-]+:/+.*[@?]", re.DOTALL)


def masked(text: object) -> str:
    """The text with `***` for the user name, the password and the query of each address in it."""
    return _QUERY.sub(r"\1***", _LOGIN.sub(r"\1***@", str(text)))


def has_secrets(text: object) -> bool:
    """Whether a word or a text that somebody gave has an address with a user name, a password or a query in it."""
    return masked(text) != str(text) or _IS_ADDRESS.match(str(text)) is not None


def printable(text: object) -> str:
    r"""The text with all that is no printable character escaped, such as `\n` and `\x1b`, and secrets masked."""
    return masked("".join(each if each.isprintable() else repr(each)[1:-1] for each in str(text)))


def shown(name: object, limit: int = MAX_SHOWN) -> str:
    """A name from outside, quoted, with control characters escaped, and cut after `limit` characters."""
    text = masked(name)  # before it is cut: half an address shows no longer that it is one
    return repr(text) if len(text) <= limit else f"{text[:limit]!r}..."


def listed(names: Iterable[object]) -> str:
    """The first names, each as `shown`, and how many more there are; `none` of no names."""
    every = [*names]
    more = f" and {len(every) - MAX_LISTED:,} more" if len(every) > MAX_LISTED else ""
    return (", ".join(map(shown, every[:MAX_LISTED])) or "none") + more


def nearest(name: str, names: Iterable[str]) -> str:
    """Part of a message: which of the names may have been meant; empty if none resembles it."""
    near = difflib.get_close_matches(name, [each for each in names if each != name], n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def system_line(doing: str, error: OSError) -> str:
    """What was being done, why the system did not do it, and what to do about that."""
    advice = _ADVICE_OF.get(error.errno or 0, "check that it exists and is writable")
    if len(doing) > MAX_PATH:
        doing = f"{doing[:MAX_PATH]}..."
    return f"{doing}: {error.strerror or error}; {advice}, then run again"


class PipelineError(Exception):
    """Base of all expected errors; anything else is a bug. Its message is one line."""

    exit_code = 1

    def __init__(self, *args: object) -> None:
        super().__init__(*(printable(each) if isinstance(each, str) else each for each in args))


class SettingsError(PipelineError, ValueError):
    """A flag, environment variable or config key is unknown or out of range."""

    exit_code = 2


class DataError(PipelineError, ValueError):
    """Input data is rejected; nothing was written from it."""

    exit_code = 3


class NoDataError(DataError):
    """What is to be evaluated is not there, or not yet."""


class IdxFormatError(DataError):
    """The bytes are not an IDX file of unsigned bytes with the expected dimensions."""


class LabelError(DataError):
    """Labels do not match the images in number, or are not digits 0-9."""


class ChecksumError(DataError):
    """A file does not have its pinned size or sha256."""


class ImagesError(DataError):
    """Images have a shape, dtype or range that the network cannot take."""


class WeightsError(PipelineError, ValueError):
    """A weights file or a set of tensors is not a dense network, or one of which the activation is not known."""

    exit_code = 3


class SourceError(PipelineError, OSError):
    """No source could deliver the source files."""

    exit_code = 4


class UnavailableError(SourceError):
    """No source could deliver the files, but one was unreachable, interrupted or busy: a retry may succeed."""


class EngineError(PipelineError, ConnectionError):
    """The active Prefect server or the cluster does not answer, or workers were killed from outside."""

    exit_code = 4


class UnauthorizedError(EngineError):
    """The active Prefect server requires a password, or a different one."""


class OutputsError(PipelineError):
    """The outputs folder cannot be written or read as needed."""

    exit_code = 5


class RunNotFoundError(OutputsError, LookupError):
    """No published run has the given name or date."""


class RunConflictError(OutputsError):
    """A run_id is already published with different predictions."""


class PrunedError(OutputsError, LookupError):
    """The predictions of a run were pruned; its other files are kept."""


class DamagedError(OutputsError):
    """A published file or shard is missing, altered, or not readable."""


class StoreError(OutputsError):
    """An object store rejects a request, does not answer, or has no such bucket; published files are unchanged."""


class MachineError(OutputsError):
    """This machine fails a command outside of the outputs folder too: no space, no memory, no permission."""


class NumericalError(PipelineError, ArithmeticError):
    """A sum on the way to the probabilities is not finite."""

    exit_code = 6


class VerdictError(PipelineError):
    """A published run fails its gates."""

    exit_code = 7


class CheckFailedError(PipelineError, RuntimeError):
    """A check of `mnist-pipeline doctor` failed."""

    exit_code = 8


def of_machine(error: BaseException) -> MachineError | None:
    """The same error if it is one of this machine that nobody has foreseen; None if it may be a bug of ours."""
    if isinstance(error, OSError) and not isinstance(error, PipelineError) and error.errno:
        there = [error.filename, error.filename2]
        what = " and ".join(shown(os.fsdecode(each), MAX_PATH) for each in there if isinstance(each, str | bytes))
        return MachineError(system_line(what or "this machine", error))
    if isinstance(error, MemoryError) or str(error) == "can't start new thread":
        number = errno.ENOMEM if isinstance(error, MemoryError) else errno.EAGAIN
        return MachineError(system_line("this machine", OSError(number, str(error) or "out of memory")))
    return None


def is_bug(error: BaseException) -> bool:
    """Whether an error is neither foreseen nor one of this machine: then its traceback is wanted."""
    return not isinstance(error, PipelineError) and of_machine(error) is None
