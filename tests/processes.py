"""Python processes that do something at the same moment."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).parents[1]


def run_at_once(code: str, arguments: Sequence[Sequence[object]], timeout_seconds: float = 120) -> list[str]:
    """What each process printed; all of them ended well.

    Args:
        code: prints `ready`, waits for a line, and then does what all are to do at once.
        arguments: those of each process.
        timeout_seconds: that one may take.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, *map(str, given)],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for given in arguments
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate(timeout=timeout_seconds)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * len(processes)
    return said
