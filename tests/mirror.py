"""The toy data set as sources offer it: its files, a web server on this machine, and a fetch of it all."""

import gzip
import hashlib
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from mnist_pipeline.core import idx
from mnist_pipeline.core.progress import Progress, silent
from mnist_pipeline.datasets.catalogue import Dataset, IdxFile, Source, Split, WebSource
from mnist_pipeline.datasets.source_files import SourceFile, Verify, verified_file
from mnist_pipeline.datasets.sources.fetching import fetch_files
from tests.builders import images_name, labels_name, random_images, random_labels

IMAGES = images_name()
LABELS = labels_name()
# What the toy data set's files hold.
CONTENT = {IMAGES: idx.encode(random_images(5)), LABELS: idx.encode(random_labels(5))}
PACKED = {f"{name}.gz": gzip.compress(data, mtime=0) for name, data in CONTENT.items()}
FILES = tuple(
    IdxFile(name=name, size_bytes=len(data), sha256=sha)
    for name, data in CONTENT.items()
    if (sha := hashlib.sha256(data).hexdigest())
)
UNPINNED = tuple(IdxFile(name=name) for name in CONTENT)
IMAGES_GZ = PACKED[f"{IMAGES}.gz"]
# One bit of the images' last pixel is another.
OTHER = CONTENT[IMAGES][:-1] + bytes([CONTENT[IMAGES][-1] ^ 1])
HTML = b"<!DOCTYPE html><html><body>Please sign in</body></html>"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def fetch(
    tmp_path: Path,
    *asked: Source,
    files: tuple[IdxFile, ...] = FILES,
    data_dir: Path | None = None,
    progress: Progress = silent,
    verify: Verify = verified_file,
) -> dict[str, SourceFile | None]:
    images, labels = FILES
    dataset = Dataset(title="Toy", splits={"test": Split(images=images, labels=labels)}, sources=asked)
    return fetch_files("toy", dataset, files, tmp_path / "cache", data_dir, progress, verify)


def in_cache(tmp_path: Path) -> dict[str, bytes]:
    """Every file below the cache, hidden ones too."""
    cache = tmp_path / "cache"
    return {str(path.relative_to(cache)): path.read_bytes() for path in cache.rglob("*") if path.is_file()}


def verified_in_cache(*names: str) -> dict[str, bytes]:
    return {f"toy/{name}": CONTENT[name] for name in names}


def put_in_cache(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / "cache" / "toy" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


# A site on this machine


@dataclass(frozen=True)
class Answer:
    """What the site says to a request. `promised` is the length it announces, if not the body's.

    `speaks` says all of it instead, byte by byte, given a way to write and an event that is set when the site closes.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    promised: int | None = None
    stalls: bool = False
    speaks: "Speech | None" = None


Write = Callable[[bytes], object]
Speech = Callable[[Write, threading.Event], object]


class Site:
    """A web server on this machine: answers by path, and the requests it got.

    `tls` makes it one of https; `port` is any if 0.
    """

    def __init__(self, answers: dict[str, Answer], tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.answers = answers
        self.first: dict[str, list[Answer]] = {}  # what is answered before, each once
        self.asked: list[str] = []
        self.authorizations: list[str | None] = []
        self.encodings: list[str | None] = []
        self.on_request: Callable[[str], object] = lambda path: None  # called with each path before the answer
        self.closing = threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                site.on_request(self.path)
                site.authorizations.append(self.headers["Authorization"])
                site.encodings.append(self.headers["Accept-Encoding"])
                name = self.path.partition("?")[0].lstrip("/")
                answer = site.answers.get(name, Answer(HTML, 404))
                if site.first.get(name):
                    answer = site.first[name].pop(0)
                with suppress(OSError):  # a client that has heard enough goes away
                    self.say(answer)

            def say(self, answer: Answer) -> None:
                if answer.speaks:
                    answer.speaks(self.wfile.write, site.closing)
                    return
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                length = len(answer.body) if answer.promised is None else answer.promised
                self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(answer.body)
                if answer.stalls:
                    self.wfile.flush()
                    site.closing.wait()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self.scheme = "https" if tls else "http"
        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.server.server_port}"

    @property
    def source(self) -> WebSource:
        return web(f"{self.scheme}://{self.place}/")

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def web(url: str) -> WebSource:
    return WebSource.model_validate({"kind": "web", "url": url})


StartSite = Callable[..., Site]
