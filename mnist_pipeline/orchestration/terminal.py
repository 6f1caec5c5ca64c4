"""Configures the log lines on the terminal while a flow runs in it."""

import logging

from prefect.logging.configuration import setup_logging

from mnist_pipeline.errors import is_bug


def share_terminal(verbose: bool, quiet: bool) -> None:
    """Show the lines of our own loggers, and hide the tracebacks of expected errors.

    Prefect logs the traceback of every exception in a task. The message of an expected error is enough, and the line
    "Finished in state Failed" repeats it. The logs that are sent to the server keep the tracebacks.

    Args:
        verbose: keep the tracebacks, and show debug lines too.
        quiet: show errors only, of Prefect too.
    """
    setup_logging()  # otherwise Prefect does it at the start of the flow, too late for the filters below
    logging.getLogger("mnist_pipeline").setLevel(logging.DEBUG if verbose else logging.INFO)
    for handler in logging.getLogger().handlers:
        if quiet:
            handler.setLevel(logging.ERROR)
        if not verbose:
            handler.addFilter(_is_unexpected)


def _is_unexpected(entry: logging.LogRecord) -> bool:
    error = entry.exc_info[1] if entry.exc_info else None
    return error is None or is_bug(error)
