"""A real S3 protocol server on loopback, whose store is moto's, and which can lose, refuse and delay."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import pytest
from moto.moto_server.werkzeug_app import create_backend_app
from werkzeug.test import Client

from mnist_pipeline.store.base import Address, parse_location
from mnist_pipeline.store.buckets import open_bucket

# Canaries: none of them may be seen in anything that is printed, logged or stored.
KEY_ID, SECRET = "AKIACANARYKEYID00000", "canary/secret+access/key"
TOKEN = "canary-session-token"

_NUMBERS = count(1)  # of buckets: all servers of a process keep them in the same memory
Fault = Literal["refuse", "busy", "conflict", "lose the answer", "lose the request", "ignore conditions"]
Rule = Callable[[str, str], Fault | None]
# What S3 says; the key's id is part of some of its answers.
ACCESS_DENIED = f"<Error><Code>AccessDenied</Code><AWSAccessKeyId>{KEY_ID}</AWSAccessKeyId></Error>".encode()
ANSWERS = {
    "refuse": (403, ACCESS_DENIED),
    "busy": (503, b"<Error><Code>SlowDown</Code></Error>"),
    "conflict": (409, b"<Error><Code>ConditionalRequestConflict</Code></Error>"),
}


@dataclass
class Proxy:
    """Hands requests on to moto, and does what `rule` says of each by method and decoded BUCKET/KEY."""

    moto: Client
    rule: Rule | None = None
    seen: list[tuple[str, str]] = field(default_factory=list)
    alone: threading.Lock = field(default_factory=threading.Lock)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def faults(self, rule: Rule) -> Iterator[None]:
        """Follow a rule for the length of the block."""
        self.rule = rule
        try:
            yield
        finally:
            self.rule = None

    def fault_of(self, method: str, key: str) -> Fault | None:
        with self._lock:
            self.seen.append((method, key))
            return self.rule(method, key) if self.rule else None

    def asked(self, method: str, place: Address) -> list[str]:
        """The objects at that place or below it that were asked for by that method so far."""
        start = str(place).partition("://")[2]
        return [key for used, key in self.seen if used == method and key.startswith(start)]


def first(times: int, rule: Callable[[str, str], bool], fault: Fault) -> Rule:
    """A fault for the first few requests that `rule` is true of."""
    so_far, lock = count(), threading.Lock()

    def decide(method: str, key: str) -> Fault | None:
        if not rule(method, key):
            return None
        with lock:
            return fault if next(so_far) < times else None

    return decide


def always(rule: Callable[[str, str], bool], fault: Fault) -> Rule:
    """A fault for every request that `rule` is true of."""
    return lambda method, key: fault if rule(method, key) else None


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and content in one packet: of two, the second waits 40 ms for the first one's receipt

        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            key = unquote(urlsplit(self.path).path).lstrip("/")  # path style: BUCKET/KEY
            fault = proxy.fault_of(self.command, key)
            if fault in ANSWERS:
                status, content = ANSWERS[fault]
                self._answer(status, {}, content)
                return
            headers = dict(self.headers)
            if fault == "ignore conditions":
                fault = None
                headers = {name: value for name, value in headers.items() if not name.lower().startswith("if-")}
            if fault != "lose the request":
                # One at a time: moto's server is not made for requests that race each other.
                with proxy.alone:
                    reply = proxy.moto.open(self.path, method=self.command, data=body, headers=headers)
                    content = reply.get_data()
            if fault is not None:
                self.close_connection = True
                return
            self._answer(reply.status_code, dict(reply.headers), content)

        def _answer(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
            self.send_response_only(status)
            ours = {name: value for name, value in headers.items() if name.lower() not in ("connection",)}
            if self.command != "HEAD":
                ours = {name: value for name, value in ours.items() if name.lower() != "content-length"}
                ours["Content-Length"] = str(len(content))
            for name, value in ours.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _pass_on  # noqa: N815  the names are the library's

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@dataclass(frozen=True)
class ObjectStore:
    """The server as a client sees it."""

    proxy: Proxy
    variables: dict[str, str]

    def bucket(self) -> Address:
        """A new bucket; what is kept in it begins below a prefix, as it would in a shared one."""
        name = f"nights-{os.getpid()}-{next(_NUMBERS)}"
        assert self.proxy.moto.put(f"/{name}", headers={"Host": "s3.amazonaws.com"}).status_code == 200
        place = parse_location(f"s3://{name}/some/prefix")
        assert isinstance(place, Address)
        return place


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    """A running object store, its variables set in this process and in those that it starts."""
    with running_store() as store, pytest.MonkeyPatch.context() as patch:
        for name, value in store.variables.items():
            patch.setenv(name, value)
        yield store


@pytest.fixture
def bucket(server: ObjectStore) -> Address:
    """An empty place in a bucket of its own."""
    return server.bucket()


def objects(place: Address) -> dict[str, str]:
    """Every object below an address, relative to it, with what changes when it does."""
    found = [each for page in open_bucket(place.bucket).list(f"{place.key}/") for each in page]
    return {each["path"].removeprefix(f"{place.key}/"): each["e_tag"] for each in found}


@contextmanager
def running_store() -> Iterator[ObjectStore]:
    """A server on a free port of loopback, with the variables that lead to it."""
    proxy = Proxy(Client(create_backend_app("s3"), use_cookies=False))
    front = ThreadingHTTPServer(("127.0.0.1", 0), _handler(proxy))
    front.daemon_threads = True
    threading.Thread(target=front.serve_forever, daemon=True).start()
    variables = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{front.server_address[1]}",
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": TOKEN,
        "AWS_REGION": "us-east-1",
    }
    try:
        yield ObjectStore(proxy, variables)
    finally:
        front.shutdown()
        front.server_close()
