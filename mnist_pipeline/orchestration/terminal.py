"""What a person sees on the terminal while a flow runs in it."""

import logging

from prefect.logging.configuration import setup_logging

from mnist_pipeline.errors import PipelineError


def share_terminal(debug: bool) -> None:
    """Let our own loggers' lines through, and print refusals without their tracebacks.

    Prefect logs the traceback of whatever a task raises. Ours say all there is to say in their message, which
    the line "Finished in state Failed" repeats. What is sent to the server keeps everything.

    Args:
        debug: keep the tracebacks, and let debug lines through as well.
    """
    setup_logging()  # Prefect would do it when the flow starts, too late to add to it
    logging.getLogger("mnist_pipeline").setLevel(logging.DEBUG if debug else logging.INFO)
    if not debug:
        for handler in logging.getLogger().handlers:
            handler.addFilter(_is_no_pipeline_error)


def _is_no_pipeline_error(entry: logging.LogRecord) -> bool:
    return not (entry.exc_info and isinstance(entry.exc_info[1], PipelineError))
