"""Why one source did not serve, and whether it may when it is asked again."""

from collections.abc import Iterator
from typing import Protocol

from mnist_pipeline.datasets.catalogue import IdxFile

Found = tuple[IdxFile, bytes]  # with its decompressed bytes


class SourceFailure(Exception):
    """This source cannot serve; the next one is asked.

    Attributes:
        retryable: whether the same source may serve a little later.
        after_seconds: for how long it asks to be left alone.
    """

    def __init__(self, reason: str, *, retryable: bool = False, after_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.retryable = retryable
        self.after_seconds = after_seconds


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def decompress(stream: _Readable, limit_bytes: int) -> Iterator[bytes]:
    """The content of a compressed stream in pieces; Refused once it exceeds `limit_bytes`."""
    total = 0
    while chunk := stream.read(1 << 20):
        total += len(chunk)
        if total > limit_bytes:
            raise SourceFailure(f"expected at most {limit_bytes} bytes decompressed, got more")
        yield chunk


def pinned_size(file: IdxFile) -> int:
    """How large the file is once decompressed, in bytes."""
    assert file.size_bytes is not None, "a data set with sources has pinned files"
    return file.size_bytes
