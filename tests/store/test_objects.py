import importlib.util
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mnist_pipeline.errors import SettingsError, StoreError
from mnist_pipeline.store import objects as objects_module
from mnist_pipeline.store.base import Address, parse_location
from mnist_pipeline.store.files import content_name
from mnist_pipeline.store.objects import ObjectStore
from tests.objectstore import KEY_ID, SECRET, TOKEN, Fault, always, first, objects
from tests.objectstore import ObjectStore as Server
from tests.objectstore import bucket as bucket
from tests.objectstore import server as server


def is_put(method: str, _key: str) -> bool:
    return method == "PUT"


@pytest.fixture
def store(bucket: Address) -> ObjectStore:
    return ObjectStore(bucket)


# Addresses


@pytest.mark.parametrize("text", ["s3://nights/a/b", "s3://nights/a//b/", "gs://nights/a/b", "az://nights/a/b"])
def test_an_address_is_taken_apart_and_put_together_again(text: str) -> None:
    place = parse_location(text)
    assert isinstance(place, Address)
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


def test_objects_larger_than_one_request_are_written_whole(store: ObjectStore, tmp_path: Path) -> None:
    data = bytes(range(256)) * 50_000  # 12.8 MB
    (tmp_path / "file").write_bytes(data)
    store.write("file", tmp_path / "file")
    store.write("bytes", data)
    assert store.read("file") == store.read("bytes") == data


def test_no_more_of_an_object_is_read_than_is_asked_for(store: ObjectStore) -> None:
    store.write("one", b"12345")
    assert [store.read("one", size) for size in (3, 5, 9)] == [b"123", b"12345", b"12345"]


def test_what_is_not_there_is_named(store: ObjectStore) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        store.read("none")
    assert (caught.value.strerror, caught.value.filename) == ("no such object", str(store.location / "none"))


def test_a_store_of_a_whole_bucket_names_objects_from_its_top(bucket: Address) -> None:
    store = ObjectStore(Address(bucket.bucket))
    store.write("runs/a/manifest.json", b"1")
    store.write("one", b"2")
    assert sorted(entry.name for entry in store.list("")) == ["one", "runs/a/manifest.json"]
    assert [entry.name for entry in store.find("runs/*", ["manifest.json"])] == ["runs/a/manifest.json"]
    assert list(store.children("")) == ["one", "runs"]
    assert store.read("one") == b"2"


def test_the_first_file_of_a_folder_leaves_before_the_others(server: Server, store: ObjectStore) -> None:
    for name in ("a", "manifest.json", "z"):
        store.write(f"runs/one/{name}", b"1")
    server.proxy.seen.clear()
    assert store.move("runs/one", "quarantine/one", first="manifest.json")
    changes = [(method, key.rpartition("/")[2]) for method, key in server.proxy.seen if method in ("PUT", "POST")]
    delete = ("POST", store.location.bucket.removeprefix("s3://"))
    assert changes == [("PUT", "manifest.json"), delete, ("PUT", "a"), delete, ("PUT", "z"), delete]


def test_files_of_other_content_have_other_names() -> None:
    assert content_name("predictions/part-00003.parquet", "ab" * 32) == f"predictions/part-00003-{'ab' * 8}.parquet"


# Created once


def test_of_many_at_once_one_creates_an_object(store: ObjectStore) -> None:
    contents = [str(number).encode() for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        created = list(pool.map(lambda data: store.create("one", data), contents))
    assert sum(created) == 1
    assert store.read("one") == contents[created.index(True)]


@pytest.mark.parametrize("fault", ["lose the answer", "lose the request", "busy"])
def test_an_answer_that_is_lost_once_is_no_failure(fault: Fault, server: Server, store: ObjectStore) -> None:
    with server.proxy.faults(first(1, is_put, fault)):
        assert store.create("one", b"mine")
    with server.proxy.faults(first(1, is_put, fault)):
        assert not store.create("one", b"other")


def test_an_object_that_was_created_although_no_answer_ever_came_is_ours(server: Server, store: ObjectStore) -> None:
    with server.proxy.faults(always(is_put, "lose the answer")):
        assert store.create("one", b"mine")
        assert not store.create("one", b"other")


def test_a_conflict_over_nothing_is_tried_again(server: Server, store: ObjectStore) -> None:
    with server.proxy.faults(first(2, is_put, "conflict")):
        assert store.create("one", b"mine")
    with server.proxy.faults(always(is_put, "conflict")):
        assert not store.create("one", b"other")
        with pytest.raises(StoreError, match="expected the object store to create it or to show what is there"):
            store.create("two", b"mine")


def test_an_object_that_could_not_be_created_is_not_there(server: Server, store: ObjectStore, bucket: Address) -> None:
    with server.proxy.faults(always(is_put, "busy")), pytest.raises(StoreError, match="got 503 SlowDown; check bucket"):
        store.create("one", b"mine")
    assert objects(bucket) == {}


# Compare-and-swap


def test_an_update_that_meets_another_is_made_again_of_what_is_there_then(store: ObjectStore) -> None:
    made: list[bytes] = []

    def make() -> dict[str, bytes]:
        before = store.read("one") if made else b""
        made.append(before)
        if len(made) == 1:
            store.write("one", b"another's")
        return {"one": before + b", and ours"}

    store.update(["one"], make)
    assert made == [b"", b"another's"]
    assert store.read("one") == b"another's, and ours"


def test_an_update_that_is_always_late_gives_up(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects_module, "MAX_SECONDS", 0.0)
    monkeypatch.setattr(objects_module, "MAX_PAUSE_SECONDS", 0.0)
    count = iter(range(1000))

    def make() -> dict[str, bytes]:
        store.write("one", str(next(count)).encode())
        return {"one": b"ours"}

    with pytest.raises(StoreError, match=r"cannot update one in s3://.*: expected no concurrent upd.* 20 times"):
        store.update(["one"], make)


# Failures


def test_a_bucket_that_does_not_exist_is_named(server: Server) -> None:
    store = ObjectStore(Address("s3://no-such-bucket/prefix"))
    for ask in (lambda: store.write("a", b""), lambda: store.read("a"), lambda: list(store.list(""))):
        with pytest.raises(StoreError, match=r"^s3://no-such-bucket/prefix.*: .* got 404 NoSuchBucket; check bucket"):
            ask()


def test_a_failure_names_the_object_and_the_answer_but_no_key(server: Server, store: ObjectStore) -> None:
    with server.proxy.faults(always(lambda *_: True, "refuse")):
        for ask in (
            lambda: store.write("a", b""),
            lambda: store.create("a", b""),
            lambda: store.read("a"),
            lambda: list(store.list("a")),
            lambda: store.children("a"),
            lambda: store.delete("a"),
            lambda: store.update(["a"], lambda: {"a": b""}),
        ):
            with pytest.raises(StoreError, match=f"^{store.location}/a: .* got 403( AccessDenied)?; check b") as caught:
                ask()
            shown = repr(caught.getrepr(style="long", chain=True)) + str(caught.getrepr(chain=True))
            assert not [secret for secret in (KEY_ID, SECRET, TOKEN) if secret in shown]
            assert caught.value.__cause__ is None
            assert caught.value.__suppress_context__


def test_a_store_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with pytest.raises(StoreError, match=r"got no answer; check bucket, credentials and network"):
        ObjectStore(Address("s3://nobody-answers/prefix")).read("a")


# What the environment says of a bucket


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without variables of object stores."""
    for name in [each for each in os.environ if each.startswith(("AWS_", "GOOGLE_", "AZURE_", "AZURITE_"))]:
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"])
def test_an_endpoint_without_tls_is_asked_for_by_any_of_its_variables(
    name: str, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv(name, endpoint)
    store.write("one", b"1")
    assert store.read("one") == b"1"


@pytest.mark.parametrize(
    ("bucket", "name"),
    [
        *(("s3://nights", name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")),
        ("gs://nights", "GOOGLE_BASE_URL"),
        *(("az://nights", name) for name in ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT", "AZURITE_BLOB_STORAGE_URL")),
    ],
)
@pytest.mark.parametrize(
    "endpoint",
    [
        "127.0.0.1:9",
        "hunter2",
        "http://",
        "ftp://hunter2:9",
        "http://host:99999",
        "http://ho st:9",
        "http://hö:9",
    ],
)
def test_an_endpoint_that_is_no_address_is_named_and_not_repeated(
    bucket: str, name: str, endpoint: str, clean: pytest.MonkeyPatch
) -> None:
    clean.setenv(name, endpoint)
    with pytest.raises(SettingsError, match=f"^{name}: expected http://HOST:PORT or https://HOST:PORT, got") as caught:
        ObjectStore(Address(f"{bucket}/a")).children("x")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("AWS_REGION", "no such region!", "AWS_REGION: expected the name of a region, got another text"),
        ("AWS_SESSION_TOKEN", "hunter2\n", "AWS_SESSION_TOKEN: expected one line of printable characters, got others"),
        *(
            (name, "hunter2", f"s3://nights: expected variables that describe an object store, .*'{name}'")
            for name in ("AWS_SKIP_SIGNATURE", "AWS_CHECKSUM_ALGORITHM", "AWS_CONDITIONAL_PUT")
        ),
    ],
)
def test_nonsense_in_a_variable_is_named_and_not_repeated(
    name: str, value: str, message: str, clean: pytest.MonkeyPatch
) -> None:
    clean.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{message}") as caught:
        ObjectStore(Address("s3://nights/a")).children("x")
    assert "hunter2" not in str(caught.value)


def test_nonsense_for_other_stores_is_named_as_well(clean: pytest.MonkeyPatch) -> None:
    clean.setenv("AZURE_STORAGE_USE_EMULATOR", "hunter2")
    clean.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", "hunter2")
    for place, name in (("az://nights", "AZURE_STORAGE_USE_EMULATOR"), ("gs://nights", "GOOGLE_SERVICE_ACCOUNT_KEY")):
        with pytest.raises(SettingsError, match=f"^{place}: expected variables .* correct one of '{name}'$"):
            ObjectStore(Address(f"{place}/a")).children("x")


def test_a_library_that_gives_up_is_one_line_too(clean: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        pass

    def give_up(_: str) -> object:
        raise PanicException("hunter2")

    clean.setattr(objects_module, "open_bucket", give_up)
    with pytest.raises(SettingsError, match=r"^s3://nights: expected variables"):
        ObjectStore(Address("s3://nights/a")).children("x")
