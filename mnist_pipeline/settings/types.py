"""The types of the settings and of the flows' parameters: what a value may be, whichever layer gives it."""

import re
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema

from mnist_pipeline.datasets.catalogue import NAME_PATTERN, SPLIT_PATTERN
from mnist_pipeline.settings.templates import is_template, resolved
from mnist_pipeline.store.base import SCHEMES, Location, is_remote, local_path, parse_location

SCHEDULER = r"^(tcp|tls)://[^\s/@]+:[0-9]{1,5}$"

# Prefect's server validates a parameter by the pattern before it keeps it, and keeps no other address: there may be a
# password in it. What is no address is as in `store.base.is_remote`.
_NO_ADDRESS = r"(?![A-Za-z][A-Za-z0-9+.-]+:/|[\s\S]*://)"
_BUCKET = rf"({'|'.join(SCHEMES)})://[A-Za-z0-9][A-Za-z0-9._-]*(/[^?#@]*)?$"

# A folder or file on disk.
LocalPath = Annotated[
    Path,
    BeforeValidator(lambda given: _on_disk(given)),
    WithJsonSchema({"type": "string", "format": "path", "pattern": f"^{_NO_ADDRESS}"}),
]
_LOCATION = (
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "format": "path", "pattern": f"^({_NO_ADDRESS}|{_BUCKET})"}),
)
# The same, or an address in an object store.
AnyLocation = Annotated[Location, PlainValidator(parse_location), *_LOCATION]
# The same, with `{run_date}` in it or not: see `templates.py`.
DatedLocation = Annotated[Location, PlainValidator(lambda given: _dated(given)), *_LOCATION]


def _no_address(name: str) -> str:
    if is_remote(name):
        raise ValueError("expected a name, got an address")  # not repeated: there may be a password in it
    return name


def _on_disk(given: object) -> object:
    if not isinstance(given, str | Path):
        return given  # pydantic says what it is not
    if is_remote(given):
        raise ValueError("expected a path on disk, got an address")  # not repeated: there may be a password in it
    return _followed(local_path(str(given)))


def _followed(path: Path) -> Path:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # for those who read or create it
    except OSError as error:
        raise ValueError(f"expected a path that this user can follow ({error.strerror})") from error
    return path


def _dated(given: object) -> Location:
    location = parse_location(given)
    meant = resolved(location, date.max) if is_template(location) else location  # any date will do
    if isinstance(meant, Path):
        _followed(meant)
    return location


def calendar_date(text: str) -> date:
    """The date that a text YYYY-MM-DD means; Python itself reads other forms of ISO 8601 as well.

    Raises:
        ValueError: it means none.
    """
    try:
        found = date.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or str(found) != text:
        raise ValueError("expected a calendar date, YYYY-MM-DD")
    return found


def _calendar_date(value: object) -> object:
    # Pydantic alone would parse "0" as a timestamp, 1970-01-01.
    return value if isinstance(value, date) else calendar_date(str(value))


def _has_begun(value: date) -> date:
    # A run of a future date would be "the latest" until that date.
    if value > today():
        raise ValueError(f"expected a date that has begun in UTC, where today is {today()}")
    return value


def today() -> date:
    """Today's date in UTC."""
    return datetime.now(UTC).date()


def _scheduler(value: str) -> str:
    if not re.fullmatch(SCHEDULER, value):
        raise ValueError("expected the address of a Dask scheduler, tcp://HOST:PORT")
    return value


# Types of the settings and of the flows' parameters.
DatasetName = Annotated[str, Field(pattern=NAME_PATTERN)]
SplitName = Annotated[str, Field(pattern=SPLIT_PATTERN)]
Rows = Annotated[int, Field(ge=1, le=100_000)]
# Text from a flag or a variable is a number here.
PixelScale = Annotated[Literal[1, 255], BeforeValidator(lambda value: int(value) if value in ("1", "255") else value)]
ColumnName = Annotated[
    str,
    Field(min_length=1, max_length=200, json_schema_extra={"pattern": f"^{_NO_ADDRESS}"}),
    AfterValidator(lambda name: _no_address(name)),
]
Workers = Annotated[int, Field(ge=1, le=256)]
WaitMinutes = Annotated[int, Field(ge=0, le=2880)]
MAX_TINY_ROWS = 30  # of shards that several threads finish no sooner than one; benchmarks/many_shards.py
Activation = Literal["sigmoid", "relu"]  # as in core.network, which not every command has to import
Runner = Literal["threads", "processes", "dask"]
ClusterAddress = Annotated[str, AfterValidator(_scheduler), Field(json_schema_extra={"pattern": SCHEDULER})]
# Every date of the calendar and no other text. Prefect's server validates parameters by the pattern in their schema and
# ignores the format: what it accepts becomes a run, which then fails.
CALENDAR_DATE = (
    r"^(\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8]))"
    r"|(\d\d(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)$"
)
RunDate = Annotated[
    date,
    BeforeValidator(_calendar_date),
    AfterValidator(_has_begun),
    Field(json_schema_extra={"pattern": CALENDAR_DATE}),
]
