"""Python processes beside the one of the test, and some that do something at the same moment."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.synchronize import Barrier
from pathlib import Path
from textwrap import dedent
from typing import Any, TypeVar
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
def _forking() -> ForkServerContext:
    """Processes that are forked from one that has no threads, and imports this checkout whichever is installed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED])
    with mock.patch.dict(os.environ, PYTHONPATH=str(PROJECT)):
        forkserver.ensure_running()
    return context


def _act(
    others: Barrier, environment: dict[str, str], answer: Connection, work: Callable[..., object], arguments: Any
) -> None:
    global _others
    _others = others
    os.environ.clear()
    os.environ.update(environment)
    answer.send(work(*arguments))


def start_together() -> None:
    """Wait in `work` for the other processes of `run_at_once`."""
    _others.wait(60)


def run_at_once(work: Callable[..., R], arguments: Sequence[Sequence[object]], timeout_seconds: float = 120) -> list[R]:
    """What each process returned; its traceback is on stderr if it raised, or if it died there is none.

    Args:
        work: calls `start_together` once, and then does what all are to do at once.
        arguments: those of each process.
        timeout_seconds: that each may take for its answer once the one before has given its own.

    Raises:
        EOFError: a process raised or died.
    """
    context, answers = _forking(), list[Connection]()
    together = context.Barrier(len(arguments))
    with ExitStack() as stack:
        for each in arguments:
            answer, end = context.Pipe(duplex=False)
            process = context.Process(target=_act, args=(together, dict(os.environ), end, work, each), daemon=True)
            process.start()
            stack.callback(process.join)
            stack.callback(process.kill)
            end.close()  # or nobody would notice that the process has
            answers.append(stack.enter_context(answer))
        return [_answer(answer, timeout_seconds) for answer in answers]


def _answer(answer: Connection, timeout_seconds: float) -> Any:
    assert answer.poll(timeout_seconds), f"no answer within {timeout_seconds} seconds"
    return answer.recv()
