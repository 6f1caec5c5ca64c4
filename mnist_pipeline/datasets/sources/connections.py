"""A file of a site -> its bytes as they lie there, within limits of size and time. Knows not what they should be.

Takes nothing that the site says for granted: neither lengths nor that an answer ends, or a redirect leads anywhere.
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
HEADERS = {"Accept-Encoding": "identity"}  # some sites would send a .gz as if it were packed text
# Answers of a site that is there and may serve a little later.
PASSING = frozenset({408, 429, 500, 502, 503, 504})
BROKEN = (requests.ConnectionError, requests.Timeout, ProtocolError, urllib3.exceptions.TimeoutError)

logging.getLogger("urllib3").setLevel(logging.ERROR)  # its warnings tell whole addresses, password and query included


class Connections:
    """Asks one site, over connections that are shut when its time is over.

    A server that sends a byte now and then outlasts each timeout of a read, in the head of its answer too.
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
        """The bytes of one file as they lie on the site.

        Args:
            url: its address.
            name: what the file is called in a reason.
            limit_bytes: how many there may be.
            progress: told of bytes that are here, and of all that the site has promised, 0 if of none.

        Raises:
            SourceFailure: they did not come, or not in time, or were too many.
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
        except (requests.RequestException, HTTPError, ValueError) as error:  # ValueError: a redirect to no address
            self._require_time(name)
            retryable = isinstance(error, BROKEN) and not isinstance(error, requests.exceptions.SSLError)
            raise SourceFailure(f"no connection ({type(error).__name__})", retryable=retryable) from error
        self._require_time(name)  # where no length is promised, a connection that is shut looks like the end
        return bytes(received)

    def _require_time(self, name: str) -> None:
        if self._over:
            raise SourceFailure(f"{name}: not here after {self._timeout_seconds} seconds", retryable=True)

    def _watch(self, opened: socket.socket) -> None:
        self._opened.append(opened)
        if self._over:
            _shut(opened)

    def _end(self) -> None:
        self._over = True  # before the loop: what is opened meanwhile is shut by one or the other
        for opened in list(self._opened):
            _shut(opened)


def _shut(opened: socket.socket) -> None:
    with suppress(OSError):  # shut or closed already
        opened.shutdown(socket.SHUT_RDWR)


def _pause_asked_for(response: requests.Response) -> float:
    try:
        return urllib3.Retry().get_retry_after(response.raw) or 0.0
    except (HTTPError, ValueError, OverflowError):  # neither seconds nor a date
        return 0.0


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Where an answer redirects to, if it does. Its body, which may have no end, is not read."""
        target: str | None = super().get_redirect_target(resp)
        if target is not None:
            resp.close()
            if weakens(resp.url, target):
                raise SourceFailure("redirects from https to an address without")
        return target


def weakens(url: str, target: str) -> bool:
    """Whether a redirect of `url` to `target`, which may be relative, leaves https."""
    return urlsplit(url).scheme == "https" and urlsplit(urljoin(url, target)).scheme != "https"


class _Adapter(HTTPAdapter):
    """Tells of each socket that is opened."""

    def __init__(self, watch: Callable[[socket.socket], None]) -> None:
        super().__init__()
        self._watch = watch

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool = super().get_connection_with_tls_context(*args, **kwargs)
        kind, watch = type(pool).ConnectionCls, self._watch

        class Watched(kind):  # type: ignore[misc, valid-type]  # with or without TLS: known only now
            def connect(self) -> None:
                super().connect()
                watch(self.sock)

        pool.ConnectionCls = Watched
        return pool
