"""Fetches and verifies the images that the settings name. Does not decode them."""

import logging

from mnist_pipeline.core.progress import Progress, silent
from mnist_pipeline.datasets.formats.idx import IdxSplit, open_split
from mnist_pipeline.datasets.formats.interface import Wanted
from mnist_pipeline.datasets.hash_cache import HashCache
from mnist_pipeline.datasets.source_files import Verify, verified_file
from mnist_pipeline.datasets.sources import fetching
from mnist_pipeline.datasets.splits import OpenSplit
from mnist_pipeline.errors import DataError
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.settings import Settings

logger = logging.getLogger(__name__)

HASH_CACHE = "verified.json"


def open_images(settings: Settings, progress: Progress = silent) -> OpenSplit:
    """The images to evaluate: the files of `settings.images`, or else the IDX files of `fetch`.

    If all their shards exist, the hash cache supplies the hashes of unchanged files. Otherwise every file is hashed
    here, once, before workers build shards from it.

    Raises:
        SettingsError: no such data set, split, file or folder; or a configured data set with other images.
        DataError: a local file has the wrong checksum or format.
        SourceError: no source answered.
    """
    settings.require_source()
    hash_cache = HashCache(settings.cache / HASH_CACHE)
    split = _open(settings, progress, hash_cache.lookup)
    if hash_cache.hits and not _all_built(settings, split):
        split = _open(settings, progress, hash_cache.verify)
    hash_cache.save()
    _log_opened(split)
    return split


def fetch(settings: Settings, progress: Progress = silent) -> IdxSplit:
    """Fetch the IDX files of the data set and split to disk, and hash every byte of them.

    Raises:
        SettingsError: no such data set, split or folder.
        DataError: a local file has the wrong checksum or format, or images and labels do not belong together.
        SourceError: no source answered.
    """
    source_images = _fetch(settings, progress, verified_file)
    _log_opened(source_images)
    return source_images


def _open(settings: Settings, progress: Progress, verify: Verify) -> OpenSplit:
    if settings.images is None:
        return _fetch(settings, progress, verify)
    wanted = Wanted(
        split=settings.split,
        image_column=settings.image_column,
        label_column=settings.label_column,
        id_column=settings.id_column,
        pixel_format=settings.pixel_format,
    )
    from mnist_pipeline.datasets.formats import choosing  # here: IDX files need none of these forms

    return choosing.open_images(settings.dataset, settings.images, wanted, verify)


def _fetch(settings: Settings, progress: Progress, verify: Verify) -> IdxSplit:
    dataset = settings.described_dataset()
    files = dataset.splits[settings.split]
    ready = fetching.fetch_files(
        settings.dataset,
        dataset,
        files.files,
        settings.cache,
        settings.data_dir,
        progress,
        verify,
    )
    images = ready[files.images.name]
    if images is None:
        raise DataError(
            f"{settings.data_dir}: expected {files.images.name} or {files.images.name}.gz, got neither; "
            "name the file so, or describe the data set in a config file"
        )
    labels = ready[files.labels.name] if files.labels else None
    return open_split(settings.dataset, settings.split, images, labels, settings.pixel_format)


def _all_built(settings: Settings, split: OpenSplit) -> bool:
    """Whether there are as many shards as planned. Does not verify them: the tasks that use them do."""
    built = len(Outputs.at(settings.outputs).shard_set(split, settings.shard_rows).names())
    # Equal, not "at least": this catches an image count that was misread from unhashed bytes.
    return built == -(-split.rows // settings.shard_rows)


def _log_opened(split: OpenSplit) -> None:
    labels = "" if split.labels_sha256 else ", no labels"
    logger.info("%s/%s: %s images%s", split.dataset, split.split, f"{split.rows:,}", labels)
