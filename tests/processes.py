"""Python processes beside the one of the test, and some that do something at the same moment."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from multiprocessing.synchronize import Barrier
from pathlib import Path
from textwrap import dedent
from typing import TypeVar
from unittest import mock

R = TypeVar("R")

PROJECT = Path(__file__).parents[1]


@contextmanager
def another_process(body: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Another real process that runs `body` with `arguments` in sys.argv; ended with the block."""
    code = "import sys\nfrom pathlib import Path\n" + dedent(body)
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def says(process: subprocess.Popen[str]) -> str:
    """The next line it prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


# What most of the processes import, once for all of them.
PRELOADED = ("pandas", "mnist_pipeline.pipeline.evaluation", "tests.promises.conftest", "tests.published")
_others: Barrier


@cache
def _forking() -> BaseContext:
    """Processes that are forked from one that has no threads, and imports this checkout whichever is installed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED])
    with mock.patch.dict(os.environ, PYTHONPATH=str(PROJECT)):
        forkserver.ensure_running()
    return context


def _begin(others: Barrier, environment: dict[str, str]) -> None:
    global _others
    _others = others
    os.environ.clear()
    os.environ.update(environment)


def start_together() -> None:
    """Wait in `work` for the other processes of `run_at_once`."""
    _others.wait(60)


def run_at_once(work: Callable[..., R], arguments: Sequence[Sequence[object]], timeout_seconds: float = 120) -> list[R]:
    """What each process returned.

    Args:
        work: calls `start_together` once, and then does what all are to do at once.
        arguments: those of each process.
        timeout_seconds: that all may take.
    """
    context = _forking()
    together = context.Barrier(len(arguments))  # each holds its process: no process gets the work of two
    with context.Pool(len(arguments), _begin, (together, dict(os.environ))) as pool:
        return pool.starmap_async(work, arguments, chunksize=1).get(timeout_seconds)
