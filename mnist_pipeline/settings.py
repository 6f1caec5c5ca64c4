"""Typed settings, and the only reader of `config/` and of the environment.

Later layers win: `config/*.toml` of the project, the --config file, environment variables MNIST_PIPELINE_*, flags.
Unknown keys are rejected in every layer.
"""

import json
import os
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    ValidationError,
    WithJsonSchema,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import SettingsError as UnreadableVariable

from mnist_pipeline.core.gates import DEFAULT_GATES, Gates
from mnist_pipeline.core.images import PixelFormat
from mnist_pipeline.datasets.catalogue import KEYS, NAME_PATTERN, SPLIT_PATTERN, Dataset, unlisted
from mnist_pipeline.errors import MAX_PATH, SettingsError, nearest, printable, shown
from mnist_pipeline.store.base import SCHEMES, Location, is_remote, local_path, parse_location
from mnist_pipeline.store.disk import read_small
from mnist_pipeline.store.probe import dead_end

ENVIRONMENT_PREFIX = "MNIST_PIPELINE_"
# The variables of Services and linked containers: their addresses, and what these consist of.
_SERVICE_ADDRESS = r"(.+_)?port(_[0-9]+_(tcp|udp|sctp))?"
_SERVICE = r"(.+_)?(service_host|service_port(_.+)?|port_[0-9]+_(tcp|udp|sctp)_(proto|port|addr))"
SCHEDULER = r"^(tcp|tls)://[^\s/@]+:[0-9]{1,5}$"

# Prefect's server validates a parameter by the pattern before it keeps it, and keeps no other address: there may be a
# password in it. What is no address is as in `store.base.is_remote`.
_NO_ADDRESS = r"(?![A-Za-z][A-Za-z0-9+.-]+:/|[\s\S]*://)"
_BUCKET = rf"({'|'.join(SCHEMES)})://[A-Za-z0-9][A-Za-z0-9._-]*(/[^?#@]*)?$"
_TABLE = re.compile(r"a (valid )?dictionary or (an )?instance of \w+")  # the words of a library for a table

# A folder or file on disk.
LocalPath = Annotated[
    Path,
    BeforeValidator(lambda given: _on_disk(given)),
    WithJsonSchema({"type": "string", "format": "path", "pattern": f"^{_NO_ADDRESS}"}),
]
# The same, or an address in an object store.
AnyLocation = Annotated[
    Location,
    PlainValidator(parse_location),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "format": "path", "pattern": f"^({_NO_ADDRESS}|{_BUCKET})"}),
]


def _no_address(name: str) -> str:
    if is_remote(name):
        raise ValueError("expected a name, got an address")  # not repeated: there may be a password in it
    return name


def _on_disk(given: object) -> object:
    if not isinstance(given, str | Path):
        return given  # pydantic says what it is not
    if is_remote(given):
        raise ValueError("expected a path on disk, got an address")  # not repeated: there may be a password in it
    path = local_path(str(given))
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # for those who read or create it
    except OSError as error:
        raise ValueError(f"expected a path that this user can follow ({error.strerror})") from error
    return path


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
    if value > _today():
        raise ValueError(f"expected a date that has begun in UTC, where today is {_today()}")
    return value


def _today() -> date:
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
LabelColumn = Annotated[
    str,
    Field(min_length=1, max_length=200, json_schema_extra={"pattern": f"^{_NO_ADDRESS}"}),
    AfterValidator(lambda name: _no_address(name)),
]
Workers = Annotated[int, Field(ge=1, le=256)]
MAX_TINY_ROWS = 30  # of shards that several threads finish no sooner than one; benchmarks/many_shards.py
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


def _switched_off(gates: object) -> object:
    """TOML has no null: a bound of false switches its gate off."""
    if not isinstance(gates, dict):
        return gates
    return {
        name: None if value is False and name.startswith(("min_", "max_")) else value for name, value in gates.items()
    }


def _workers(settings: Mapping[str, Any]) -> int:
    """One a core. One in all for tiny shards on a disk: threads would wait for each other's turn in the interpreter."""
    tiny = settings.get("shard_rows", MAX_TINY_ROWS + 1) <= MAX_TINY_ROWS
    on_disk = isinstance(settings.get("outputs"), Path)
    return 1 if tiny and on_disk and settings.get("runner") == "threads" else _cores()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _user_cache() -> Path:
    # Without a home folder older versions of the package return a relative path. No cache then, which matters only to
    # those who need one.
    with suppress(RuntimeError):
        if (folder := platformdirs.user_cache_path("mnist-pipeline")).is_absolute():
            return folder
    return Path(os.devnull) / "mnist-pipeline"


class RetentionSettings(BaseModel):
    """Which runs keep their predictions when the maintenance deployment prunes; see `mnist-pipeline prune`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keep_days: int = Field(ge=1, le=36_500)
    keep_last: int = Field(default=7, ge=1)
    grace_hours: int = Field(default=24, ge=0, le=87_600)


# What the config files say; the last one wins.
_TABLES: ContextVar[Sequence[Mapping[str, Any]]] = ContextVar("tables", default=())


PATHS = ("outputs", "weights", "images", "data_dir", "cache")  # the settings that are paths; some may be addresses
_SOURCES = ("images", "data_dir")
_MEANING = ("label_column", "pixel_scale", "invert")  # of the images
# With another value than the configured one a run has other images, numbers or run_id than the night.
_COUNTED = (*_SOURCES, *_MEANING, "weights", "batch_rows", "shard_rows")


class Settings(BaseSettings):
    """The settings of a run. Build it with `load_settings`."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True)

    dataset: DatasetName = Field(description="data set, as named in the config")
    split: SplitName = Field(description="split of the data set")
    run_date: RunDate = Field(default_factory=_today, description="UTC date of the run, YYYY-MM-DD; today if left out")
    weights: AnyLocation | None = Field(
        default=None, description="weights: .safetensors, .npz or the book's .pkl; the current ones if left out"
    )
    images: LocalPath | None = Field(
        default=None, description="Parquet file, or folder of them, with the images of a data set of your own"
    )
    data_dir: LocalPath | None = Field(default=None, description="folder with IDX files, asked before any other source")
    label_column: LabelColumn | None = Field(
        default=None, description="column of the labels in the images; none if they have none; label if left out"
    )
    pixel_scale: PixelScale | None = Field(
        default=None, description="pixel value of full ink, 1 or 255; 255 for integers and 1 for floats if left out"
    )
    invert: bool | None = Field(default=None, description="whether the images are black on white")
    cache: LocalPath = Field(
        default_factory=_user_cache, description="folder of the verified source files; the user's if left out"
    )
    outputs: AnyLocation = Field(description="folder of shards, runs and history, or s3://BUCKET/PREFIX")
    batch_rows: Rows = Field(description="images per forward pass")
    shard_rows: Rows = Field(description="images per Parquet file")
    runner: Runner = Field(description="kind of worker: threads, processes or dask")
    workers: Workers = Field(
        default_factory=_workers, description="threads or processes at work; one a core if left out"
    )
    cluster: ClusterAddress | None = Field(default=None, description="Dask scheduler, tcp://HOST:PORT; for runner dask")
    max_tasks: int = Field(ge=1, le=1000, description="maximum number of tasks per step of one run")
    report: bool = Field(description="write the report of the run")
    datasets: dict[DatasetName, Dataset] = Field(description="the known data sets")
    gates: dict[DatasetName, Annotated[Gates, BeforeValidator(_switched_off)]] = Field(
        description="the gates of each data set"
    )
    retention: RetentionSettings | None = Field(
        default=None, description="which runs the maintenance prunes; none if left out"
    )
    _by_hand: Mapping[str, Any] = PrivateAttr(default_factory=dict)
    _sources: Mapping[str, str] = PrivateAttr(default_factory=lambda: defaultdict(str))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then the environment, then the config files in force; the first that has a key wins."""
        files = [InitSettingsSource(settings_cls, dict(table)) for table in reversed(_TABLES.get())]
        return (init_settings, env_settings, *files)

    @property
    def by_hand(self) -> Mapping[str, Any]:
        """The settings that were given by hand and make a run another than its night's, with the configured values."""
        return self._by_hand

    def named(self, name: str) -> str:
        """A setting and its value for a message, with the layer that gave it: `split 'valid', from --split`."""
        return f"{name} {shown(getattr(self, name))}{_comma_from(self._sources[name])}"

    @property
    def pixel_format(self) -> PixelFormat:
        """What the pixel values of the images mean."""
        return PixelFormat(self.pixel_scale, self.invert)

    def gates_of_dataset(self) -> Gates:
        """The gates of `dataset`; without an entry, the default gates, which need no configured bound."""
        return self.gates.get(self.dataset, DEFAULT_GATES)

    def require_source(self) -> None:
        """Reject contradictory image settings before any slow work starts.

        Raises:
            SettingsError: no such data set or split; or `images` is set together with `data_dir`, or for a data set
                whose files the config pins.
        """
        if self.images is None:
            if self.label_column is not None:
                raise SettingsError(
                    f"label_column {shown(self.label_column)}: expected images beside it, got none; IDX files of "
                    "labels have no columns"
                )
            self.described_dataset()
            return
        if self.data_dir is not None:
            raise SettingsError(
                f"--images {self.images}: expected no --data-dir beside it, got {self.data_dir}; leave one of them out"
            )
        if self._is_pinned():
            raise SettingsError(
                f"--images {self.images}: expected a data set of their own, got {self.dataset}, whose files the "
                f"config pins; name it with --dataset NAME, so that they do not mix with the runs of {self.dataset}"
            )

    def _require_cache(self) -> None:
        """Reject a cache that cannot be created, before anything is downloaded to it."""
        end = dead_end(self.cache)
        if end and not (end == self.cache and end.is_dir()):  # one with all files in it need not be written to
            home = "set HOME to a folder of this user, or " if end == Path(os.devnull) else ""
            raise SettingsError(
                f"cache {self.cache}: expected a folder that can be created, got {end}, which is none "
                f"that this user can write to; {home}name another with --cache or {ENVIRONMENT_PREFIX}CACHE"
            )

    def _is_pinned(self) -> bool:
        entry = self.datasets.get(self.dataset)
        return entry is not None and any(file.sha256 for split in entry.splits.values() for file in split.files)

    def _given_otherwise(self, configured: "Settings | None") -> dict[str, Any]:
        """The settings of a night with another value than the configured one.

        Not the source and meaning of images that config does not name, as there is no other way to name them; nor the
        source of images whose files are pinned, as they are the same from everywhere.
        """
        there = {name: getattr(configured, name, None) for name in _COUNTED}
        named = self._is_pinned() or any(there[name] is not None for name in _SOURCES)
        return {
            name: value
            for name, value in there.items()
            if value != getattr(self, name)
            and not (name in _SOURCES and (value is None or self._is_pinned()))
            and not (name in _MEANING and not named)
        }

    def described_dataset(self) -> Dataset:
        """The config entry of `dataset`, or with `data_dir` an entry that pins nothing.

        Raises:
            SettingsError: no entry and no folder; the entry has no such split; `images` is set; or the files would have
                to be fetched to a cache that cannot be created.
        """
        if self.images is not None:
            raise SettingsError(
                f"images {self.images}: expected none here, where IDX files are read: "
                "Parquet files are for evaluating only; unset it"
            )
        entry = self.datasets.get(self.dataset)
        if entry is None and self.data_dir is None:
            raise SettingsError(
                f"{self.named('dataset')}: expected one of {', '.join(sorted(self.datasets))}; "
                "add an entry under [datasets] in a config file, or give its folder with --data-dir"
            )
        entry = entry or unlisted(self.dataset)
        if self.split not in entry.splits:
            raise SettingsError(
                f"{self.named('split')}: expected one of {', '.join(sorted(entry.splits))} for data set "
                f"{self.dataset!r}"
            )
        if self.data_dir is None:
            self._require_cache()
        return entry


def project_file(name: str) -> Path:
    """Locate `config` or `prefect.yaml`: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside, beside = package / name, package.parent / name
    return inside if inside.exists() else beside


def project_defaults() -> dict[str, Any]:
    """What `config/*.toml` says, by setting; nothing if one cannot be read, which `load_settings` reports."""
    try:
        return {name: value for path in _project_files() for name, value in _read_toml(path).items()}
    except SettingsError:
        return {}


def load_settings(
    config: Path | None = None,
    configured: Mapping[str, Any] | None = None,
    flag_names: Mapping[str, str] | None = None,
    **flags: Any,
) -> Settings:
    """Read all layers into one `Settings`.

    Args:
        config: a TOML file laid over the project's own; it may hold any subset of the keys.
        configured: what a deployment gives for `config` and the flags, if that is what they are compared with to tell
            what was given by hand; no flag, and the same `config`, if left out.
        flag_names: what a message calls the flags, by setting; an argument of that name if left out.
        flags: settings by field name; None means not given.

    Raises:
        SettingsError: a file cannot be read, a key or variable is unknown, or a value is out of range; it says which
            layer gave it.
    """
    settings = _build(config, flags, flag_names or {})
    if configured is None and any(flags.get(name) is not None for name in _COUNTED):
        configured = {"config": config}
    if configured is not None:
        settings._by_hand = settings._given_otherwise(_configured(configured))
    return settings


@dataclass(frozen=True)
class _Layer:
    """What one config file, the environment or the flags give; `names` are those of a message, by setting."""

    values: Mapping[str, Any]
    names: Mapping[str, str]

    @classmethod
    def of_file(cls, path: Path) -> "_Layer":
        table = _read_toml(path)
        return cls(table, dict.fromkeys(table, f"config file {path}"))

    @classmethod
    def of_environment(cls) -> "_Layer":
        prefix = len(ENVIRONMENT_PREFIX)
        given = {name: value for name, value in os.environ.items() if name.upper().startswith(ENVIRONMENT_PREFIX)}
        fields = {name[prefix:].lower(): name for name, value in given.items() if value}
        return cls({field: _parsed(given[name]) for field, name in fields.items()}, fields)

    def depth(self, keys: Sequence[int | str]) -> int:
        """How many of these keys, each below the one before, are in it."""
        inner: Any = self.values
        for depth, key in enumerate(keys):
            try:
                inner = inner[key]
            except (LookupError, TypeError):
                return depth
        return len(keys)


def _parsed(value: str) -> Any:
    try:
        return json.loads(value) if value.lstrip().startswith(("{", "[")) else value
    except (ValueError, RecursionError):
        return value


def _source(layers: Sequence[_Layer], keys: Sequence[int | str]) -> str:
    """What a message calls the layer that gave a setting, or a key in it; empty if none did, or if it has no name."""
    depth, layer = max(((layer.depth(keys), index) for index, layer in enumerate(layers)), default=(0, 0))
    return layers[layer].names.get(str(keys[0]), "") if depth else ""  # a later layer wins


def _comma_from(source: str) -> str:
    return f", from {source}" if source else ""


def _build(config: Path | None, flags: Mapping[str, Any], flag_names: Mapping[str, str]) -> Settings:
    if config is not None and is_remote(config):
        raise SettingsError("config: expected a file on disk, got an address; give its path")
    files = [_Layer.of_file(path) for path in (*_project_files(), *([config] if config else []))]
    given = {name: value for name, value in flags.items() if value is not None}
    _refuse_unknown_variables(os.environ)

    layers = [*files, _Layer.of_environment(), _Layer(given, flag_names)]
    tables = _TABLES.set([layer.values for layer in files])
    try:
        settings = Settings(**given)
    except ValidationError as error:
        raise SettingsError(_explain(error, layers)) from None  # pydantic repeats the input, passwords included
    except (UnreadableVariable, RecursionError) as error:  # of the structured ones
        names = [f"{ENVIRONMENT_PREFIX}{name}" for name in ("DATASETS", "GATES", "RETENTION")]
        wrong = [name for name in names if f'"{name.removeprefix(ENVIRONMENT_PREFIX).lower()}"' in str(error)]
        raise SettingsError(f"environment variable {' or '.join(wrong or names)}: expected JSON; correct it") from None
    finally:
        _TABLES.reset(tables)
    settings._sources = {name: _source(layers, [name]) for name in ("dataset", "split")}
    if "cluster" in given and settings.runner != "dask":  # in config or environment it may be set for other runs
        raise SettingsError(
            f"cluster {settings.cluster}: expected runner dask, got {settings.runner}; say which is meant"
        )
    return settings


def _configured(parameters: Mapping[str, Any]) -> Settings | None:
    """The settings without what was given by hand; None if they are not valid without it."""
    config = parameters.get("config")
    flags = {name: value for name, value in parameters.items() if name in Settings.model_fields}
    try:
        return _build(Path(config) if config else None, flags, {})
    except SettingsError:
        return None


def _project_files() -> list[Path]:
    return sorted(project_file("config").glob("*.toml"))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_small(path))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"config file {path}: cannot be read ({error}); name another file") from error
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"config file {path}: not valid TOML ({error}); correct that line") from error


def _refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    prefix = ENVIRONMENT_PREFIX.lower()  # pydantic reads variables in either case, so either is checked
    for variable in sorted(environment):
        field = variable.lower().removeprefix(prefix)
        if not variable.lower().startswith(prefix) or _is_of_a_service(field, environment[variable]):
            continue
        if field not in Settings.model_fields:
            near = nearest(field, Settings.model_fields)
            raise SettingsError(f"environment variable {variable}: no such setting{near}; unset it")


def _is_of_a_service(field: str, value: str) -> bool:
    """Whether it is what Kubernetes and Docker tell of a Service, or a linked container, called `mnist-pipeline`."""
    return re.fullmatch(_SERVICE_ADDRESS if "://" in value else _SERVICE, field) is not None


def _explain(error: ValidationError, layers: Sequence[_Layer]) -> str:
    lines = []
    for problem in error.errors(include_url=False, include_context=False):
        if problem["type"] == "default_factory_not_called":  # follows from another problem
            continue
        where = ".".join("an address" if is_remote(part) else printable(part)[:MAX_PATH] for part in problem["loc"])
        source = _source(layers, problem["loc"])
        if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            *outer, key = problem["loc"]
            near = nearest(str(key), _keys_below(outer))
            there = f" of {source}" if source else ""
            lines.append(f"{where}: no such setting{near}; take it out{there} or correct its name")
        elif problem["type"] == "missing":
            lines.append(f"{where}: expected a value, got none{_comma_from(source)}")
        else:
            expected = "expected" if problem["type"] == "literal_error" else "expected a value"
            message = problem["msg"].removeprefix("Value error, ").replace("Input should be", expected)
            message = message.replace("expected a value a ", "expected a ")
            message = _TABLE.sub("a table", message)
            # What an address holds may be a password.
            shown = not isinstance(problem["input"], dict | list) and not is_remote(problem["input"])
            got = f", got {problem['input']!r:.{MAX_PATH}}" if shown else ""
            lines.append(f"{where}: {message}{got}{_comma_from(source)}")
    return "settings refused: " + "; ".join(lines)


def _keys_below(outer: Sequence[int | str]) -> Iterable[str]:
    if not outer:
        return Settings.model_fields
    return [field.name for field in fields(Gates)] if outer[0] == "gates" else KEYS
