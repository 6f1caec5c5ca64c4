"""Source files are read whole and unchanged, compressed or not, on disk or in a bucket, or not at all."""

import gzip
import hashlib
import io
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_pipeline.core import idx
from mnist_pipeline.datasets.source_files import SourceFile, verified_file
from mnist_pipeline.errors import DataError, UnavailableError
from mnist_pipeline.pipeline import evaluation
from mnist_pipeline.runs.lookup import list_runs
from mnist_pipeline.settings import Settings
from mnist_pipeline.store import buckets, objects
from mnist_pipeline.store.base import Address, Location
from mnist_pipeline.store.opening import write_location
from tests.builders import images_name, labels_name, random_images, random_labels, small_settings
from tests.objectstore import Fault, ObjectStore, Rule
from tests.objectstore import bucket as bucket
from tests.objectstore import server as server
from tests.published import opened

CONTENT = random_images(20).tobytes()
PACKED = gzip.compress(CONTENT)


@pytest.fixture(params=["disk", "bucket"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    place: Location = tmp_path if request.param == "disk" else request.getfixturevalue("bucket")
    return place


def content_of(file: SourceFile) -> bytes:
    with file.open() as source:
        return source.stream.read()


@pytest.mark.parametrize("name", ["a", "a.gz", "A.GZ"])
def test_a_file_is_read_as_what_it_holds_and_named_by_its_hash(name: str, folder: Location) -> None:
    write_location(folder / name, PACKED if name != "a" else CONTENT)
    file = verified_file(folder / name)
    assert (file.sha256, file.size_bytes) == (hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
    assert content_of(file) == CONTENT


def test_a_gzip_of_several_members_and_padding_is_all_of_them(folder: Location) -> None:
    write_location(folder / "a.gz", gzip.compress(CONTENT[:7000]) + gzip.compress(CONTENT[7000:]) + bytes(100))
    assert content_of(verified_file(folder / "a.gz")) == CONTENT


DAMAGED = {
    "no gzip": CONTENT,
    "cut": PACKED[:-9],
    "cut in its header": PACKED[:5],
    "a second member is cut": PACKED + PACKED[:100],
    "another checksum": PACKED[:-8] + bytes(4) + PACKED[-4:],
    "another length": PACKED[:-4] + bytes(4),
    "garbage behind": PACKED + b"garbage",
    "other deflate": PACKED[:10] + b"\xff" * 50,
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_gzip_is_refused(kind: str, folder: Location) -> None:
    write_location(folder / "a.gz", DAMAGED[kind])
    with pytest.raises(DataError, match=rf"{folder}/a\.gz: expected a whole gzip file, got .*; replace it"):
        verified_file(folder / "a.gz")


@pytest.mark.parametrize("content", [b"", gzip.compress(b"")], ids=["no bytes", "no content"])
def test_an_empty_gzip_is_an_empty_file(content: bytes, folder: Location) -> None:
    write_location(folder / "a.gz", content)
    assert verified_file(folder / "a.gz").size_bytes == 0


def test_a_bomb_is_cut_off_after_as_much_as_is_allowed(folder: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    write_location(folder / "a.gz", gzip.compress(bytes(32 << 20)))
    inflated = count()
    real = gzip.GzipFile.read

    def counting(self: gzip.GzipFile, size: int | None = -1) -> bytes:
        next(inflated)
        return real(self, size)

    monkeypatch.setattr(gzip.GzipFile, "read", counting)
    with pytest.raises(DataError, match=r"a\.gz: expected at most 2097152 bytes decompressed, got more; replace it"):
        verified_file(folder / "a.gz", limit_bytes=2 << 20)
    assert next(inflated) == 3  # of a megabyte each


# Buckets that fail half-way


def after(requests: int, name: str, fault: Fault) -> Rule:
    """A fault for all requests for an object's content but the first few."""
    so_far = count()
    return lambda method, key: fault if method == "GET" and key.endswith(name) and next(so_far) >= requests else None


def npz(rows: int, seed: int = 0) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, images=random_images(rows, seed), labels=random_labels(rows, seed))
    return stream.getvalue()


@dataclass(frozen=True)
class Night:
    """A run over 60 images in a bucket, and the object that holds them."""

    settings: Settings
    images: Address

    def runs(self) -> int:
        return len(list_runs(opened(self.settings.outputs)))


@pytest.fixture(params=["a.npz", images_name(), f"{images_name()}.gz"])
def night(request: pytest.FixtureRequest, bucket: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Night:
    """A request to the bucket takes a few images, and is not repeated."""
    monkeypatch.setattr(objects, "READ_BYTES", 8192)
    monkeypatch.setattr(buckets, "RETRIES", 0)
    settings, name = small_settings(tmp_path), request.param
    if name == "a.npz":
        write_location(bucket / name, npz(60))
        return Night(settings.model_copy(update={"images": bucket / name, "data_dir": None}), bucket / name)
    data = idx.encode(random_images(60))
    write_location(bucket / name, gzip.compress(data) if name.endswith(".gz") else data)
    write_location(bucket / labels_name(), idx.encode(random_labels(60)))
    return Night(settings.model_copy(update={"data_dir": bucket}), bucket / name)


@pytest.mark.parametrize(("requests", "fault"), [(0, "busy"), (4, "lose the request")])
def test_a_bucket_that_stops_answering_is_said_and_the_run_can_be_repeated(
    fault: Fault, requests: int, night: Night, server: ObjectStore
) -> None:
    message = f"^{night.images}: expected the object store to do as asked, got "
    with (
        server.proxy.faults(after(requests, night.images.name, fault)),
        pytest.raises(UnavailableError, match=message),
    ):
        evaluation.evaluate(night.settings)
    assert night.runs() == 0
    evaluation.evaluate(night.settings)
    assert night.runs() == 1


@pytest.mark.parametrize("requests", [0, 2])
def test_an_object_replaced_while_it_is_read_gives_no_run(
    requests: int, night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    so_far, real = count(), objects.ObjectStore.read_range

    def replacing(self: objects.ObjectStore, name: str, *what: Any) -> bytes:
        if name == night.images.name and next(so_far) == requests:
            write_location(night.images, npz(60, seed=1))
        return real(self, name, *what)

    monkeypatch.setattr(objects.ObjectStore, "read_range", replacing)
    message = f"^{night.images}: expected the file that was verified, got one changed since; run again to verify it"
    with pytest.raises(DataError, match=message):
        evaluation.evaluate(night.settings)
    assert night.runs() == 0
