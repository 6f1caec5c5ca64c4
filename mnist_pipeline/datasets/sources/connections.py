"""Downloads a file of a site within limits of size and time. It does not verify the content.

It does not trust the site: lengths may be wrong, responses may never end, redirects may lead nowhere.
"""

import logging
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ProtocolError

from mnist_pipeline.datasets.sources.transfer import SourceFailure

CONNECT_TIMEOUT_SECONDS = 5
READ_TIMEOUT_SECONDS = 20
CHUNK_BYTES = 1 << 16
HEADERS = {"Accept-Encoding": "identity"}  # some sites would send a .gz as compressed text
# Status codes of a failure that may be temporary.
PASSING = frozenset({408, 429, 500, 502, 503, 504})
BROKEN = (requests.ConnectionError, requests.Timeout, ProtocolError, urllib3.exceptions.TimeoutError)

logging.getLogger("urllib3").setLevel(logging.ERROR)  # its warnings contain whole addresses with password and query


class Connections:
    """Connections to one site; a timer shuts them down after `timeout_seconds`.

    The timeout of each read is not enough: a server that sends a byte now and then, even within the response head,
    never exceeds it.
    """

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._opened: list[socket.socket] = []
        self._over = False
        self._timer = threading.Timer(timeout_seconds, self._end)
        self._timer.daemon = True
        self._session = _Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Adapter(self._watch))

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._session.close()

    def download(self, url: str, name: str, limit_bytes: int, progress: Callable[[int, int], None]) -> bytes:
        """Download one file, without decoding it.

        Args:
            url: the address of the file.
            name: the name of the file in errors.
            limit_bytes: the maximum size.
            progress: called with the bytes received and the announced length, 0 if there is none.

        Raises:
            SourceFailure: the download failed, took too long or was too large.
        """
        received = bytearray()
        try:
            timeouts = (CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS)
            with self._session.get(url, stream=True, timeout=timeouts, headers=HEADERS) as response:
                if (status := response.status_code) != requests.codes.ok:
                    pause = _pause_asked_for(response)
                    raise SourceFailure(
                        f"answered {status} for {name}", retryable=status in PASSING, after_seconds=pause
                    )
                promised = response.raw.length_remaining or 0
                while chunk := response.raw.read(CHUNK_BYTES, decode_content=False):
                    received += chunk
                    if len(received) > limit_bytes:
                        raise SourceFailure(f"{name}: expected at most {limit_bytes} bytes, got more")
                    progress(min(len(received), promised), promised)
        except (
            requests.RequestException,
            HTTPError,
            ValueError,
        ) as error:  # ValueError: a redirect to an invalid address
            self._require_time(name)
            retryable = isinstance(error, BROKEN) and not isinstance(error, requests.exceptions.SSLError)
            raise SourceFailure(f"no connection ({type(error).__name__})", retryable=retryable) from error
        self._require_time(name)  # without a length, a connection that was shut down looks complete
        return bytes(received)

    def _require_time(self, name: str) -> None:
        if self._over:
            raise SourceFailure(f"{name}: not complete after {self._timeout_seconds} seconds", retryable=True)

    def _watch(self, opened: socket.socket) -> None:
        self._opened.append(opened)
        if self._over:
            _shut(opened)

    def _end(self) -> None:
        self._over = True  # before the loop: `_watch` or the loop shuts down a socket opened meanwhile
        for opened in list(self._opened):
            _shut(opened)


def _shut(opened: socket.socket) -> None:
    with suppress(OSError):  # already shut down or closed
        opened.shutdown(socket.SHUT_RDWR)


def _pause_asked_for(response: requests.Response) -> float:
    try:
        return urllib3.Retry().get_retry_after(response.raw) or 0.0
    except (HTTPError, ValueError, OverflowError):  # Retry-After holds neither seconds nor a date
        return 0.0


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """The target of a redirect, if there is one. The body is not read: it may be endless."""
        target: str | None = super().get_redirect_target(resp)
        if target is not None:
            resp.close()
            if weakens(resp.url, target):
                raise SourceFailure("redirects from https to an address without")
        return target


def weakens(url: str, target: str) -> bool:
    """Whether a redirect from `url` to `target`, which may be relative, leaves https."""
    return urlsplit(url).scheme == "https" and urlsplit(urljoin(url, target)).scheme != "https"


class _Adapter(HTTPAdapter):
    """Reports each opened socket to `watch`."""

    def __init__(self, watch: Callable[[socket.socket], None]) -> None:
        super().__init__()
        self._watch = watch

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool = super().get_connection_with_tls_context(*args, **kwargs)
        kind, watch = type(pool).ConnectionCls, self._watch

        class Watched(kind):  # type: ignore[misc, valid-type]  # the class depends on whether the site uses TLS
            def _new_conn(self) -> socket.socket:
                opened: socket.socket = super()._new_conn()
                watch(opened)  # a proxy may never end its answer to CONNECT
                return opened

            def connect(self) -> None:
                super().connect()
                watch(self.sock)  # TLS has taken the other one over

        pool.ConnectionCls = Watched
        return pool
