"""What we tell Prefect before it is imported. Values the user has set stay as they are."""

import os

PREFECT_DEFAULTS = {
    # No telemetry, from the client or from a temporary server.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # Without PREFECT_API_URL each command starts a temporary server; the first start in a home creates its
    # database and takes longer than Prefect's own limit of 20 seconds on a small machine.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # Our loggers' lines belong to the run; outside a run they go to the terminal alone.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "mnist_pipeline",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}


def prepare_environment() -> None:
    """Set the defaults; must run before the first import of Prefect."""
    for name, value in PREFECT_DEFAULTS.items():
        os.environ.setdefault(name, value)
