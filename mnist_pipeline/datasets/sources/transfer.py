"""The failure of a source, and decompression within a size limit."""

from collections.abc import Iterator
from typing import Protocol

from mnist_pipeline.datasets.catalogue import IdxFile

Found = tuple[IdxFile, bytes]  # with its decompressed bytes


class SourceFailure(Exception):
    """One source failed; the caller tries the next one.

    Attributes:
        retryable: whether the same source may succeed a little later.
        after_seconds: the minimum pause that the source asks for.
    """

    def __init__(self, reason: str, *, retryable: bool = False, after_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.retryable = retryable
        self.after_seconds = after_seconds


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def decompress(stream: _Readable, limit_bytes: int) -> Iterator[bytes]:
    """Yield the content of a decompressing stream in chunks; raise SourceFailure beyond `limit_bytes`."""
    total = 0
    while chunk := stream.read(1 << 20):
        total += len(chunk)
        if total > limit_bytes:
            raise SourceFailure(f"expected at most {limit_bytes} bytes decompressed, got more")
        yield chunk


def pinned_size(file: IdxFile) -> int:
    """The pinned size of the decompressed file in bytes."""
    assert file.size_bytes is not None, "a data set with sources has pinned files"
    return file.size_bytes
