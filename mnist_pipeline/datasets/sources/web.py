"""Fetches the gzipped files of a data set from a web site."""

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator
from functools import partial
from urllib.parse import urlsplit

from mnist_pipeline.core.progress import Progress
from mnist_pipeline.datasets.catalogue import IdxFile, WebSource
from mnist_pipeline.datasets.sources.transfer import Found, SourceFailure, decompress, pinned_size

SLACK_BYTES = 1 << 20
DOWNLOAD_TIMEOUT_SECONDS = 600  # per site and attempt


def from_web(source: WebSource, wanted: list[IdxFile], progress: Progress) -> Iterator[Found]:
    """Yield the wanted files of a site, as they arrive."""
    from mnist_pipeline.datasets.sources.connections import Connections

    with Connections(DOWNLOAD_TIMEOUT_SECONDS) as site:
        for file in wanted:
            name = f"{file.name}.gz"
            size_bytes = pinned_size(file)
            limit_bytes = size_bytes + SLACK_BYTES  # gzip hardly enlarges any data
            on_progress = partial(progress, f"download {file.name}")
            packed = site.download(_address(source, name), name, limit_bytes, on_progress)
            if file.gzip_sha256 not in (None, got := hashlib.sha256(packed).hexdigest()):
                raise SourceFailure(f"{name}: expected sha256 {file.gzip_sha256}, got {got}")
            try:
                with gzip.open(io.BytesIO(packed)) as stream:
                    data = b"".join(decompress(stream, size_bytes))
            except (OSError, EOFError, zlib.error) as error:
                raise SourceFailure(f"{name} is not the pinned file ({type(error).__name__})") from error
            yield file, data


def _address(source: WebSource, name: str) -> str:
    folder = urlsplit(str(source.url))
    return folder._replace(path=f"{folder.path.rstrip('/')}/{name}").geturl()  # keeps the query, which may be a token
