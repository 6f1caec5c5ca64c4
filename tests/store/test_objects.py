import importlib.util
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mnist_pipeline.errors import SettingsError, StoreError
from mnist_pipeline.store.files import content_name, create_file
from mnist_pipeline.store.objects import ObjectPath, parse_location
from tests.objectstore import KEY_ID, SECRET, TOKEN, Fault, ObjectStore, always, first, objects
from tests.objectstore import bucket as bucket
from tests.objectstore import server as server


def is_put(method: str, _key: str) -> bool:
    return method == "PUT"


# Addresses


@pytest.mark.parametrize("text", ["s3://nights/a/b", "s3://nights/a//b/", "gs://nights/a/b", "az://nights/a/b"])
def test_an_address_is_taken_apart_and_put_together_again(text: str) -> None:
    place = parse_location(text)
    assert isinstance(place, ObjectPath)
    assert str(place) == f"{text[:2]}://nights/a/b"
    assert place.key == "a/b"
    assert str((place / "c" / "d.safetensors").with_suffix(".md")) == f"{text[:2]}://nights/a/b/c/d.md"
    assert str(place.parent.parent) == f"{text[:2]}://nights"
    assert parse_location(str(place)) == place
    assert pickle.loads(pickle.dumps(place)) == place


def test_what_is_no_address_is_a_folder_on_disk() -> None:
    assert parse_location("outputs") == Path.cwd() / "outputs"
    assert parse_location("~/outputs") == Path.home() / "outputs"


@pytest.mark.parametrize(
    "text",
    [
        "s3://key:hunter2@nights/a",
        "s3://nights/a?password=hunter2",
        "s3://nights/a#hunter2",
        "s3:///hunter2",
        "s3://",
        "s3://nights/../hunter2",
        "ftp://nights/hunter2",
        "s3:/nights/hunter2",
        str(Path("s3://nights/hunter2")),
        "http://nights/hunter2",
    ],
)
def test_another_address_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(
        ValueError, match="expected a folder, or SCHEME://BUCKET/PREFIX with one of s3, gs, az"
    ) as caught:
        parse_location(text)
    assert "hunter2" not in str(caught.value)


def test_a_missing_library_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"^s3://nights: expected the package obstore, got none; install it: pip"):
        parse_location("s3://nights")


# Objects


def test_objects_are_written_read_listed_and_deleted(bucket: ObjectPath) -> None:
    (bucket / "a" / "one").write_bytes(b"1")
    (bucket / "a" / "b" / "two").write_bytes(b"")
    assert (bucket / "a" / "one").read_bytes() == b"1"
    assert (bucket / "a" / "b" / "two").read_bytes() == b""
    assert list((bucket / "a").iterdir()) == [bucket / "a" / "b", bucket / "a" / "one"]
    assert (bucket / "a").subfolders() == [bucket / "a" / "b"]
    (bucket / "a" / "one").unlink()
    (bucket / "a" / "one").unlink()
    assert list(objects(bucket)) == ["a/b/two"]
    assert list((bucket / "none").iterdir()) == []


def test_a_name_is_a_file_or_a_folder_or_nothing(bucket: ObjectPath) -> None:
    (bucket / "a" / "one").write_bytes(b"1")
    asked = [bucket / "a", bucket / "a" / "one", bucket / "a" / "on"]
    assert [place.is_dir() for place in asked] == [True, False, False]
    assert [place.is_file() for place in asked] == [False, True, False]
    assert [place.exists() for place in asked] == [True, True, False]


def test_a_file_larger_than_one_request_is_uploaded_whole(bucket: ObjectPath, tmp_path: Path) -> None:
    data = bytes(range(256)) * 50_000  # 12.8 MB
    (tmp_path / "file").write_bytes(data)
    (bucket / "file").upload(tmp_path / "file")
    (bucket / "bytes").write_bytes(data)
    assert (bucket / "file").read_bytes() == (bucket / "bytes").read_bytes() == data


def test_no_more_of_an_object_is_read_than_is_wanted(bucket: ObjectPath) -> None:
    (bucket / "one").write_bytes(b"12345")
    assert [(bucket / "one").read_start(most) for most in (3, 5, 9)] == [b"123", b"12345", b"12345"]


def test_what_is_not_there_is_not_found(bucket: ObjectPath) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        (bucket / "none").read_bytes()
    assert (caught.value.strerror, caught.value.filename) == ("no such object", str(bucket / "none"))
    assert (bucket / "none").read_version() is None


def test_files_of_other_content_have_other_names() -> None:
    assert content_name("predictions/part-00003.parquet", "ab" * 32) == f"predictions/part-00003-{'ab' * 8}.parquet"


# Created once


def test_only_the_first_creates_an_object(bucket: ObjectPath) -> None:
    assert (bucket / "one").create(b"mine")
    assert not (bucket / "one").create(b"other")
    assert (bucket / "one").read_bytes() == b"mine"


def test_of_many_at_once_one_creates_an_object(bucket: ObjectPath) -> None:
    contents = [str(number).encode() for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        created = list(pool.map((bucket / "one").create, contents))
    assert sum(created) == 1
    assert (bucket / "one").read_bytes() == contents[created.index(True)]


@pytest.mark.parametrize("fault", ["lose the answer", "lose the request", "busy"])
def test_an_answer_that_is_lost_once_is_no_failure(fault: Fault, server: ObjectStore, bucket: ObjectPath) -> None:
    with server.proxy.faults(first(1, is_put, fault)):
        assert (bucket / "one").create(b"mine")
    with server.proxy.faults(first(1, is_put, fault)):
        assert not (bucket / "one").create(b"other")


def test_an_object_that_was_created_although_no_answer_ever_came_is_ours(
    server: ObjectStore, bucket: ObjectPath
) -> None:
    with server.proxy.faults(always(is_put, "lose the answer")):
        assert (bucket / "one").create(b"mine")
        assert not (bucket / "one").create(b"other")


def test_a_conflict_over_nothing_is_tried_again(server: ObjectStore, bucket: ObjectPath) -> None:
    with server.proxy.faults(first(2, is_put, "conflict")):
        assert (bucket / "one").create(b"mine")
    with server.proxy.faults(always(is_put, "conflict")):
        assert not (bucket / "one").create(b"other")
        with pytest.raises(StoreError, match="expected the object store to create it or to show what is there"):
            (bucket / "two").create(b"mine")


def test_an_object_that_could_not_be_created_is_not_there(server: ObjectStore, bucket: ObjectPath) -> None:
    with server.proxy.faults(always(is_put, "busy")), pytest.raises(StoreError, match="got 503 SlowDown; check bucket"):
        (bucket / "one").create(b"mine")
    assert objects(bucket) == {}


def test_files_on_disk_are_created_once_too(tmp_path: Path) -> None:
    assert create_file(tmp_path / "a" / "one", b"mine", tmp_path / "scratch")
    assert not create_file(tmp_path / "a" / "one", b"other", tmp_path / "scratch")
    assert (tmp_path / "a" / "one").read_bytes() == b"mine"
    assert list((tmp_path / "scratch").iterdir()) == []


# Replaced if unchanged


def test_an_object_is_replaced_only_if_it_is_what_was_looked_at(bucket: ObjectPath) -> None:
    place = bucket / "one"
    assert not place.replace_if_unchanged(b"0", {"e_tag": '"none"'})
    assert place.replace_if_unchanged(b"1", None)
    assert not place.replace_if_unchanged(b"2", None)
    seen = place.read_version()
    assert place.replace_if_unchanged(b"3", seen)
    assert not place.replace_if_unchanged(b"4", seen)
    assert place.read_bytes() == b"3"


# Refusals


def test_a_bucket_that_does_not_exist_is_said(server: ObjectStore) -> None:
    place = ObjectPath("s3://no-such-bucket/prefix")
    for ask in (lambda: place.write_bytes(b""), place.read_bytes, lambda: list(place.iterdir()), place.is_dir):
        with pytest.raises(StoreError, match=r"^s3://no-such-bucket/prefix: .* got 404 NoSuchBucket; check bucket"):
            ask()


def test_a_refusal_names_the_object_and_what_was_said_but_no_key(server: ObjectStore, bucket: ObjectPath) -> None:
    with server.proxy.faults(always(lambda *_: True, "refuse")):
        for ask in (
            lambda: bucket.write_bytes(b""),
            lambda: bucket.create(b""),
            bucket.read_bytes,
            bucket.exists,
            lambda: list(bucket.iterdir()),
            bucket.unlink,
        ):
            with pytest.raises(StoreError, match=f"^{bucket}: .* got 403( AccessDenied)?; check bucket") as caught:
                ask()
            shown = repr(caught.getrepr(style="long", chain=True))
            assert not [
                secret for secret in (KEY_ID, SECRET, TOKEN) if secret in str(caught.getrepr(chain=True)) + shown
            ]
            assert caught.value.__cause__ is None
            assert caught.value.__suppress_context__


def test_a_store_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with pytest.raises(StoreError, match=r"got no answer; check bucket, credentials and network"):
        ObjectPath("s3://nobody-answers/prefix").read_bytes()
