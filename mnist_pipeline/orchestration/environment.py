"""Sets environment variables for Prefect, before its import, and for child processes. Keeps values the user has set."""

import io
import os
from contextlib import redirect_stderr
from pathlib import Path

from mnist_pipeline.errors import SettingsError, listed
from mnist_pipeline.store.base import is_remote

LOOPBACK = ("127.0.0.1", "localhost", "::1")

PREFECT_DEFAULTS = {
    # No telemetry, from the client or from a temporary server.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # Without PREFECT_API_URL each command starts a temporary server; the first start in a home creates its
    # database and takes longer than Prefect's own timeout of 20 seconds on a small machine.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # Prefect's own default lets a page of any origin use the server. Its UI is of the server's own origin.
    "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": "http://127.0.0.1:4200,http://localhost:4200",
    # Our loggers' lines belong to the run; outside a run they go to the terminal alone.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "mnist_pipeline",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}


def prepare_environment() -> None:
    """Set the defaults; must run before the first import of Prefect, and says what that would fail of.

    Raises:
        SettingsError: a variable or profile of Prefect, or the address of a proxy, cannot be used. Its value is not
            repeated: there may be a password in it.
    """
    spare_loopback()
    for name, value in PREFECT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    for name, value in os.environ.items():
        if name.startswith("PREFECT_") and name.endswith(("_HOME", "_PATH")) and is_remote(value):
            raise SettingsError(f"{name}: expected a path on disk, got an address; correct it")
        if name.startswith("PREFECT_") and name.endswith("_PATH") and _is_special(Path(value)):
            raise SettingsError(f"{name}: expected a file or folder, got a pipe or device; correct it")
    import httpx
    from pydantic import ValidationError

    try:
        with redirect_stderr(io.StringIO()):  # Prefect prints the value of a setting that it cannot use
            from prefect.settings import get_current_settings

            get_current_settings()
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][-1])
        variables = [each for each in sorted(os.environ) if each.startswith("PREFECT_") and each.lower().endswith(name)]
        raise SettingsError(
            f"settings of Prefect: {name}: {problem['msg']}; correct it in the environment ({listed(variables)}) or in "
            "prefect.toml"
        ) from None
    except (ValueError, OSError, RuntimeError) as error:
        raise SettingsError(
            f"settings of Prefect: {error}; correct its files, and set HOME or PREFECT_HOME to a folder of yours"
        ) from None
    try:
        httpx.Client().close()
    except OSError as error:
        given = listed(name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE") if os.environ.get(name))
        raise SettingsError(f"{given}: expected files that can be used, got {error}; correct or unset them") from None
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise SettingsError(
            "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY: expected addresses http://HOST:PORT, got another "
            f"({type(error).__name__}); correct or unset them"
        ) from None


def _is_special(path: Path) -> bool:
    return path.exists() and not (path.is_file() or path.is_dir())


def spare_loopback() -> None:
    """Exclude the loopback addresses from all proxies, in this process and its children.

    Sets both spellings, because some libraries prefer no_proxy and some NO_PROXY. Without a proxy variable it sets
    nothing: no_proxy alone would hide the system's proxies from some libraries.
    """
    named = {name.lower() for name, value in os.environ.items() if value and name.lower().endswith("_proxy")}
    if not named - {"no_proxy"}:
        return
    given = [name.strip() for variable in ("no_proxy", "NO_PROXY") for name in os.environ.get(variable, "").split(",")]
    # A star means all hosts, and only when it stands alone.
    spared = "*" if "*" in given else ",".join(dict.fromkeys([*filter(None, given), *LOOPBACK]))
    os.environ.update(no_proxy=spared, NO_PROXY=spared)
