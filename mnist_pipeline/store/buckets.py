"""Opens a bucket through obstore, which reads endpoint, region and credentials from the environment.

What it takes badly there is rejected here first: it panics on some of it, with a backtrace on stderr. Messages name the
variable and never its value.
"""

import functools
import os
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mnist_pipeline.errors import SettingsError, shown

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

RETRIES = 8  # with pauses that grow from 0.1 s: some seconds in all
RETRY_SECONDS = 60
REQUEST_SECONDS = 120
# What obstore reads, by the scheme of an address.
PREFIXES = {"s3": "AWS_", "gs": "GOOGLE_", "az": "AZURE_"}
ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT", "AZURITE_BLOB_STORAGE_URL"),
}


def open_bucket(bucket: str) -> Any:
    """The bucket of that address, such as `s3://nights`. Nothing is asked of it yet.

    Raises:
        SettingsError: a variable that obstore reads is of no use to it.
    """
    endpoints = [name for name in ENDPOINTS[_scheme(bucket)] if os.environ.get(name)]
    for name in endpoints:
        if not _is_endpoint(os.environ[name]):
            raise SettingsError(f"{name}: expected http://HOST:PORT or https://HOST:PORT, got another text; correct it")
    for name in _variables(bucket):
        if name.endswith("REGION") and not re.fullmatch(r"[A-Za-z0-9-]*", os.environ[name]):
            raise SettingsError(f"{name}: expected the name of a region, got another text; correct it")
        if name.startswith("AWS_") and not os.environ[name].isprintable():
            raise SettingsError(f"{name}: expected one line of printable characters, got others; correct it")
    return _opened(bucket, tuple(os.environ[name] for name in endpoints))


def unusable(bucket: str) -> SettingsError:
    """The error for variables on which obstore gives up."""
    return SettingsError(
        f"{bucket}: expected variables that describe an object store, got one that it cannot take; correct one of "
        f"{', '.join(map(shown, _variables(bucket)))}"
    )


def is_panic(error: BaseException) -> bool:
    """Whether obstore gave up for good: such an error is no Exception, and has no module to import it from."""
    return type(error).__name__ == "PanicException"


@functools.cache
def _opened(bucket: str, endpoints: tuple[str, ...]) -> Any:
    from obstore.store import from_url

    options: ClientConfig = {"timeout": timedelta(seconds=REQUEST_SECONDS)}
    if any(endpoint.startswith("http://") for endpoint in endpoints):  # without TLS only where somebody asks for that
        options["allow_http"] = True
    retries: RetryConfig = {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS)}
    try:
        return from_url(bucket, client_options=options, retry_config=retries)
    except BaseException as error:
        if isinstance(error, Exception) or is_panic(error):
            raise unusable(bucket) from None  # it may repeat a key
        raise


def _scheme(bucket: str) -> str:
    return bucket.partition(":")[0]


def _variables(bucket: str) -> Sequence[str]:
    return sorted(name for name in os.environ if name.startswith(PREFIXES[_scheme(bucket)]))


def _is_endpoint(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return (
            text.isascii()
            and not re.search(r"\s", text)
            and parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
        )
    except ValueError:  # no such port
        return False
