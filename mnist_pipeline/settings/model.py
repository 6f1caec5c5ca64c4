"""The settings of a run as one typed object, and what they say together."""

import os
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Self

import platformdirs
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from mnist_pipeline.core.gates import DEFAULT_GATES, Gates
from mnist_pipeline.core.images import PixelFormat
from mnist_pipeline.datasets.catalogue import Dataset, unlisted
from mnist_pipeline.errors import SettingsError, shown
from mnist_pipeline.settings.layers import ENVIRONMENT_PREFIX, comma_from
from mnist_pipeline.settings.templates import is_template, resolved
from mnist_pipeline.settings.types import (
    MAX_TINY_ROWS,
    Activation,
    AnyLocation,
    ClusterAddress,
    ColumnName,
    DatasetName,
    DatedLocation,
    LocalPath,
    PixelScale,
    Rows,
    RunDate,
    Runner,
    SplitName,
    WaitMinutes,
    Workers,
    today,
)
from mnist_pipeline.store.base import Location
from mnist_pipeline.store.probe import dead_end


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

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    keep_days: int = Field(ge=1, le=36_500)
    keep_last: int = Field(default=7, ge=1)
    grace_hours: int = Field(default=24, ge=0, le=87_600)


DATED = ("weights", "images", "data_dir", "labels")  # the locations that may have the run date in them
PATHS = ("outputs", *DATED, "cache")  # the settings that are paths; some may be addresses
NETWORK = ("weights", "activation")  # the settings that say which network
_SOURCES = ("images", "data_dir")
_COLUMNS = ("image_column", "label_column", "id_column")
_MEANING = (*_COLUMNS, "pixel_scale", "invert", "transpose")  # of the images
# With another value than the configured one a run has other images, numbers or run_id than the night.
COUNTED = (*_SOURCES, *_MEANING, *NETWORK, "batch_rows", "shard_rows")


class Settings(BaseModel):
    """The settings of a run. Build it with `load_settings`."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, defer_build=True)

    dataset: DatasetName = Field(description="data set, as named in the config")
    split: SplitName = Field(description="split of the data set")
    run_date: RunDate = Field(default_factory=today, description="UTC date of the run, YYYY-MM-DD; today if left out")
    weights: DatedLocation | None = Field(
        default=None, description="weights: .safetensors, .npz or the book's .pkl; the current ones if left out"
    )
    activation: Activation | None = Field(
        default=None, description="activation of the hidden layers, sigmoid or relu, of weights that do not say it"
    )
    images: DatedLocation | None = Field(
        default=None,
        description="images of a data set of your own: a file (Parquet, CSV, NPZ) or a folder (also of PNG, JPEG)",
    )
    data_dir: DatedLocation | None = Field(
        default=None, description="folder with IDX files, asked before any other source"
    )
    image_column: ColumnName | None = Field(
        default=None, description="column or array of the images, where a file may mean several"
    )
    label_column: ColumnName | None = Field(
        default=None, description="column of the labels in the images; none if they have none; label if left out"
    )
    id_column: ColumnName | None = Field(
        default=None, description="column or array of the images' own names; they have none if left out"
    )
    labels: DatedLocation | None = Field(
        default=None, description="Parquet or CSV file of labels that came later than the images"
    )
    pixel_scale: PixelScale | None = Field(
        default=None, description="pixel value of full ink, 1 or 255; 255 for integers and 1 for floats if left out"
    )
    invert: bool | None = Field(default=None, description="whether the images are black on white")
    transpose: bool | None = Field(default=None, description="whether the images are stored column by column")
    wait_for_data_minutes: WaitMinutes = Field(
        description="minutes to wait for images, data_dir and labels that are not there yet"
    )
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
    _templates: dict[str, Location] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _resolve(self) -> Self:
        """From here on a location is that of the run date; what it was resolved from is kept for other dates."""
        given = {name: getattr(self, name) for name in DATED}
        self._templates.update({name: each for name, each in given.items() if each is not None and is_template(each)})
        self.__dict__.update(self._located(self.run_date))
        return self

    def _located(self, run_date: date) -> dict[str, Location]:
        return {name: resolved(template, run_date) for name, template in self._templates.items()}

    def on(self, run_date: date) -> Self:
        """The same settings of another run date: the only way to have its locations."""
        return self.model_copy(update={"run_date": run_date, **self._located(run_date)})

    @property
    def by_hand(self) -> Mapping[str, Any]:
        """The settings that were given by hand and make a run another than its night's, with the configured values."""
        return self._by_hand

    def named(self, name: str) -> str:
        """A setting and its value for a message, with the layer that gave it: `split 'valid', from --split`."""
        return f"{name} {shown(getattr(self, name))}{comma_from(self._sources[name])}"

    @property
    def pixel_format(self) -> PixelFormat:
        """What the pixel values of the images mean."""
        return PixelFormat(self.pixel_scale, self.invert, self.transpose)

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
            for name in _COLUMNS:
                if (column := getattr(self, name)) is not None:
                    raise SettingsError(
                        f"{name} {shown(column)}: expected images beside it, got none; IDX files have no columns"
                    )
            self.described_dataset()
            return
        if self.data_dir is not None:
            raise SettingsError(
                f"--images {self.images}: expected no --data-dir beside it, got {self.data_dir}; leave one of them out"
            )
        if self.is_pinned:
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

    @property
    def is_pinned(self) -> bool:
        """Whether the config pins files of the data set: they are the same from every source."""
        entry = self.datasets.get(self.dataset)
        return entry is not None and any(file.sha256 for split in entry.splits.values() for file in split.files)

    def _given_otherwise(self, configured: "Settings | None") -> dict[str, Any]:
        """The settings of a night with another value than the configured one.

        Not the source and meaning of images that config does not name, as there is no other way to name them; nor the
        source of images whose files are pinned, as they are the same from everywhere.
        """
        there = {name: getattr(configured, name, None) for name in COUNTED}
        named = self.is_pinned or any(there[name] is not None for name in _SOURCES)
        return {
            name: value
            for name, value in there.items()
            if value != getattr(self, name)
            and not (name in _SOURCES and (value is None or self.is_pinned))
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
                "other files are for evaluating only; unset it"
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
