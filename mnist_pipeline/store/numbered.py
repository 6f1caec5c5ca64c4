"""Numbered documents in a folder: each is created once, after all others, and never changed. Knows nothing of them."""

import re
from collections.abc import Iterator

from mnist_pipeline.store.base import Store

_NAME = re.compile(r"(\d{6})\.json")


def names(store: Store, folder: str) -> list[str]:
    """The names of the documents, in order."""
    return [_named(folder, number) for number in sorted(_numbers(store, folder))]


def newest(store: Store, folder: str) -> str | None:
    """The name of the last document, or None."""
    number = max(_numbers(store, folder), default=None)
    return None if number is None else _named(folder, number)


def append(store: Store, folder: str, data: bytes) -> str:
    """Add a document after all others; of two at the same time, one comes second. Returns its name.

    Raises:
        StoreError: it cannot be written.
    """
    while True:
        name = _named(folder, max(_numbers(store, folder), default=0) + 1)
        if store.create(name, data):
            return name


def _named(folder: str, number: int) -> str:
    return f"{folder}/{number:06d}.json"


def _numbers(store: Store, folder: str) -> Iterator[int]:
    for child in store.children(folder):
        if match := _NAME.fullmatch(child):
            yield int(match[1])
