"""Loads published runs and verdicts as pandas frames. Checks files against their manifest before it parses them."""

from collections.abc import Iterable
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnist_pipeline import tables
from mnist_pipeline.core import images as transform
from mnist_pipeline.core.images import SIDE
from mnist_pipeline.core.network import Network
from mnist_pipeline.core.plan import RowRange
from mnist_pipeline.datasets.formats.idx import read_images, read_labels
from mnist_pipeline.datasets.shards import read_selected
from mnist_pipeline.errors import DamagedError, PrunedError, RunNotFoundError, SettingsError, WeightsError
from mnist_pipeline.pipeline.inputs import fetch
from mnist_pipeline.runs.lookup import list_runs, runs_of, runs_of_dates
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.runs.run import Run
from mnist_pipeline.settings import load_settings
from mnist_pipeline.store.base import parse_location
from mnist_pipeline.verdicts.finding import find_run
from mnist_pipeline.verdicts.records import newest_verdict
from mnist_pipeline.views import complete_repairs, current_views
from mnist_pipeline.weights.files import SHIPPED_WEIGHTS, load_weights

if TYPE_CHECKING:
    import pandas as pd

RUN_TABLES = {table.name: table for table in (tables.PREDICTIONS, tables.SUMMARY, tables.CONFUSION, tables.RELIABILITY)}
VERDICT_TABLES = {table.name: table for table in (tables.COMPARISON, tables.FLIPS, tables.GATES)}


def load_run(
    run: str | date = "latest",
    dataset: str = "mnist",
    split: str = "test",
    table: Literal[
        "predictions", "summary", "confusion", "reliability", "comparison", "flips", "gates"
    ] = "predictions",
    outputs: Path | str | None = None,
) -> "pd.DataFrame":
    """Load a table of one published run or of its newest verdict; docs/data-dictionary.md describes the columns.

    Args:
        run: a run_id; a run_date: the newest run of it that counts; "latest": that of the newest date;
            "latest-passed": the newest that counts and passed. Others are found by their run_id only.
        dataset: data set meant by a name or a date.
        split: split meant by a name or a date.
        table: which table; comparison, flips and gates are those of the newest verdict.
        outputs: the outputs folder; the configured one if left out.

    Returns:
        The whole table; `frame.attrs["run_id"]` is the run_id.

    Raises:
        SettingsError: no such table.
        RunNotFoundError: no such run, or no verdict on it.
        DamagedError: a file is missing or altered.
    """
    if table not in RUN_TABLES | VERDICT_TABLES:
        known = ", ".join(RUN_TABLES | VERDICT_TABLES)
        raise SettingsError(f"table {table!r}: expected one of {known}; correct its name")
    folder = _outputs(outputs)
    found = find_run(folder, run, dataset, split)
    frame: pd.DataFrame = _read(folder, found, table).to_pandas()
    frame.attrs["run_id"] = found.name.run_id
    return frame


def run_files(
    run: str | date = "latest",
    dataset: str = "mnist",
    split: str = "test",
    table: Literal["predictions", "summary", "confusion", "reliability"] = "predictions",
    outputs: Path | str | None = None,
) -> list[str]:
    """List the Parquet files of a table of one or all published runs, for your own reader: paths, or addresses.

    In an object store this list defines which files belong to a run, not the listing of a folder. It does not read the
    files: use a reader that verifies page checksums, or `load_run`.

    Args:
        run: as for `load_run`, or "all": the run of each date of the data set and split that has one, oldest first,
            but for tables that were pruned.
        dataset: data set meant by a name or a date.
        split: split meant by a name or a date.
        table: which table.
        outputs: the outputs folder; the configured one if left out.

    Raises:
        SettingsError: no such table.
        RunNotFoundError: no such run.
        DamagedError: the manifest is missing or altered.
    """
    if table not in RUN_TABLES:
        raise SettingsError(f"table {table!r}: expected one of {', '.join(RUN_TABLES)}; correct its name")
    folder = _outputs(outputs)
    if run != "all":
        return [str(path) for path in find_run(folder, run, dataset, split).paths(RUN_TABLES[table])]
    files = []
    for each in runs_of_dates(folder, runs_of(folder, dataset, split)):
        with suppress(PrunedError):
            files += [str(path) for path in each.paths(RUN_TABLES[table])]
    if not files:
        raise RunNotFoundError(
            f"{folder}: expected published runs of {dataset}/{split} with {table}, got none; name the folder of the "
            "nights with `outputs`, or another data set"
        )
    return files


def load_images(
    run: str | date = "latest",
    image_ids: Iterable[int] = (),
    dataset: str = "mnist",
    split: str = "test",
    outputs: Path | str | None = None,
) -> NDArray[np.float32]:
    """Load images of a published run from its shards, as the network saw them.

    For example the mistakes: `load_images("latest", load_run("latest").query("not correct")["image_id"])`.

    Args:
        run: as for `load_run`.
        image_ids: which images, `[N]`, in the order wanted; an id may occur more than once.
        dataset: data set meant by a name or a date.
        split: split meant by a name or a date.
        outputs: the outputs folder; the configured one if left out.

    Returns:
        `[N, 28, 28]` float32 in 0..1, one for each id.

    Raises:
        SettingsError: an id is not one of the run's images.
        RunNotFoundError: no such run.
        DamagedError: a shard is missing or altered; running the date again builds it.
    """
    folder = _outputs(outputs)
    manifest = find_run(folder, run, dataset, split).manifest()
    ids, images = [int(image_id) for image_id in image_ids], manifest.identity.images
    if strange := [image_id for image_id in ids if not 0 <= image_id < images]:
        more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        raise SettingsError(
            f"image_ids of run {manifest.run_id}: expected 0 to {images - 1}, got "
            f"{', '.join(map(str, strange[:3]))}{more}; take them from its predictions"
        )
    try:
        found = read_selected(folder.shards_of(manifest), manifest.identity, set(ids))
    except DamagedError as error:
        raise DamagedError(f"{error}; run --run-date {manifest.identity.run_date} again to build it") from error
    pixels = np.empty((len(ids), SIDE, SIDE), np.float32)
    for position, image_id in enumerate(ids):
        pixels[position] = found[image_id].reshape(SIDE, SIDE)
    return pixels


def _read(outputs: Outputs, run: Run, table: str) -> pa.Table:
    if table in RUN_TABLES:
        return run.read(RUN_TABLES[table])
    verdict = newest_verdict(outputs, run.manifest().content)
    if verdict is None:
        raise RunNotFoundError(f"run {run.name.run_id}: expected a verdict, got none; run its date again to judge it")
    return verdict.read(VERDICT_TABLES[table])


def load_history(outputs: Path | str | None = None) -> "pd.DataFrame":
    """Load one row per run and digit of all published runs, ordered by run_date and run_id.

    It contains all data sets and splits: filter on `dataset` and `split`. Runs that are missing from history.parquet
    are read and verified directly.

    Args:
        outputs: the outputs folder; the configured one if left out.

    Raises:
        RunNotFoundError: no run is published there.
    """
    folder = _outputs(outputs)
    history = current_views(folder).history
    if not history.num_rows and not list_runs(folder):
        raise RunNotFoundError(
            f"{folder}: expected published runs, got none; name the folder of the nights with `outputs`, or publish "
            "a night with `mnist-pipeline run`"
        )
    frame: pd.DataFrame = history.to_pandas()
    return frame


def _outputs(given: Path | str | None) -> Outputs:
    outputs = Outputs.at(load_settings(outputs=given).outputs)
    complete_repairs(outputs)
    return outputs


Pair = tuple[NDArray[Any], NDArray[Any]]


def load_mnist(
    normalize: bool = True,
    flatten: bool = True,
    one_hot_label: bool = False,
) -> tuple[Pair, Pair]:
    """Load MNIST into memory; fetch it on first use and verify it on every use.

    Args:
        normalize: pixels float32 in 0..1; otherwise uint8 in 0..255.
        flatten: images `[N, 784]`; otherwise `[N, 1, 28, 28]`.
        one_hot_label: labels `[N, 10]` float64 of 0.0 and 1.0; otherwise `[N]` uint8 in 0..9.

    Returns:
        `(x_train, t_train), (x_test, t_test)`: 60,000 and 10,000 images with their labels.

    Raises:
        SourceError: no source could deliver the files.
        DataError: a file does not match its checksum or format.
    """
    train, test = (_load_split(split, normalize, flatten, one_hot_label) for split in ("train", "test"))
    return train, test


def init_network(weights: Path | str | None = None) -> Network:
    """Load a trained network: `network["W1"]` .. `network["b3"]`.

    Args:
        weights: a .safetensors, .npz or .pkl file, such as the book's `sample_weight.pkl`, or its address in an object
            store; the weights shipped with this package if left out.

    Raises:
        WeightsError: the file is not exactly a 784-50-100-10 network.
    """
    if weights is None:
        return load_weights(SHIPPED_WEIGHTS)
    try:
        location = parse_location(weights)
    except ValueError as error:
        raise WeightsError(f"weights: {error}") from None
    return load_weights(location)


def _load_split(split: str, normalize: bool, flat: bool, one_hot_label: bool) -> Pair:
    source_images = fetch(load_settings(dataset="mnist", split=split))
    rows = RowRange(0, source_images.rows)
    images, labels = read_images(source_images, rows), read_labels(source_images, rows)
    assert labels is not None, "MNIST has labels"
    x: NDArray[Any] = transform.normalise(images) if normalize else images
    x = transform.flatten(x) if flat else x.reshape(-1, 1, SIDE, SIDE)
    return x, transform.one_hot(labels) if one_hot_label else labels
