"""The exceptions of the project, split by what the person who meets one can do.

    PipelineError                      everything below; carries the command's exit code
    ├── SettingsError        (2)       fix the flag, the variable or the config file
    ├── DataError            (3)       the input is refused: mend or replace it
    │   ├── IdxFormatError               not an IDX file of the form we read
    │   ├── LabelError                   labels do not fit the images or the digits
    │   ├── ChecksumError                right name, wrong bytes
    │   └── ImagesError                  images of a shape or range the network cannot take
    ├── WeightsError         (3)       the weights file is refused: give another one
    ├── SourceError          (4)       no source has the files: give --data-dir, or mend the sources
    │   └── UnavailableError             one of them was not reached, or is busy: try again later
    ├── EngineError          (4)       no Prefect server answered: start it, or run with --direct
    │   └── UnauthorizedError            it answered, and does not let us in: give its password
    ├── OutputsError         (5)       the outputs folder cannot be used as it is
    │   ├── RunNotFoundError             no published run answers to that name
    │   ├── AmbiguousRunError            several published runs do
    │   ├── RunConflictError             the same run was published with other predictions
    │   ├── PrunedError                  its predictions were given up by `mnist-pipeline prune`
    │   ├── DamagedError                 a published file or shard is not what was written
    │   └── StoreError                   the object store refuses or does not answer
    ├── NumericalError       (6)       the arithmetic gave NaN or infinity; nothing is published
    └── VerdictError         (7)       the run is published, and a gate failed: look at the run

Imports nothing of ours. Every class also derives from the builtin that fits, so that plain
`except ValueError` or `except LookupError` keeps working for people who call the package.
"""


class PipelineError(Exception):
    """Base of all errors that are not our own bugs."""

    exit_code = 1


class SettingsError(PipelineError, ValueError):
    """A flag, environment variable or config key is unknown or out of range."""

    exit_code = 2


class DataError(PipelineError, ValueError):
    """Input data is refused; nothing was written from it."""

    exit_code = 3


class IdxFormatError(DataError):
    """Bytes are not an IDX file of unsigned bytes with the expected dimensions."""


class LabelError(DataError):
    """Labels do not match the images in number, or are not digits 0-9."""


class ChecksumError(DataError):
    """A file has not the size or sha256 that is pinned for it."""


class ImagesError(DataError):
    """Images have a shape, dtype or range that the network cannot take."""


class WeightsError(PipelineError, ValueError):
    """A weights file or a set of tensors is not exactly a 784-50-100-10 network."""

    exit_code = 3


class SourceError(PipelineError, OSError):
    """No source could deliver the raw files."""

    exit_code = 4


class UnavailableError(SourceError):
    """No source could deliver the raw files, but one did not answer, broke off or was busy: later it may serve."""


class EngineError(PipelineError, ConnectionError):
    """The Prefect server in force or the cluster does not answer, or workers were ended from outside."""

    exit_code = 4


class UnauthorizedError(EngineError):
    """The Prefect server in force wants a password, or another one than it was given."""


class OutputsError(PipelineError, OSError):
    """The outputs folder cannot be written or read as needed."""

    exit_code = 5


class RunNotFoundError(OutputsError, LookupError):
    """No published run answers to the given name or date."""


class AmbiguousRunError(OutputsError, LookupError):
    """More than one published run answers to the given date."""


class RunConflictError(OutputsError):
    """A run_id is already published with different predictions."""


class PrunedError(OutputsError, LookupError):
    """The predictions of a run are no longer kept; all else of it is."""


class DamagedError(OutputsError):
    """A published file or shard is missing, altered, or not readable."""


class StoreError(OutputsError):
    """An object store refuses, does not answer, or has no such bucket; what is published there is what it was."""


class NumericalError(PipelineError, ArithmeticError):
    """A sum on the way to the probabilities is not finite."""

    exit_code = 6


class VerdictError(PipelineError):
    """A published run does not keep its gates."""

    exit_code = 7
