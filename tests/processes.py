"""Python processes beside the one of the test, and some that do something at the same moment."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from textwrap import dedent

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


# Imports once what the code imports, which takes longest, and forks a process for each list of arguments.
_MASTER = """
import ast, json, os, sys, traceback
code, children = sys.argv[1], json.loads(sys.argv[2])
for node in ast.walk(ast.parse(code)):
    if isinstance(node, ast.Import | ast.ImportFrom):
        exec(compile(ast.Module([node], []), "imports", "exec"))
pids = []
for stdin, stdout, arguments in children:
    pid = os.fork()
    if pid == 0:
        os.dup2(stdin, 0)
        os.dup2(stdout, 1)
        for each in children:
            os.close(each[0])
            os.close(each[1])
        sys.argv[1:] = arguments
        status = 1
        try:
            exec(code, {"__name__": "__main__"})
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    pids.append(pid)
for stdin, stdout, _ in children:
    os.close(stdin)
    os.close(stdout)
sys.exit(any([os.waitpid(pid, 0)[1] for pid in pids]))
"""


def run_at_once(code: str, arguments: Sequence[Sequence[object]], timeout_seconds: float = 120) -> list[str]:
    """What each process printed; all of them ended well.

    Args:
        code: prints `ready`, waits for a line, and then does what all are to do at once.
        arguments: those of each process, in `sys.argv`.
        timeout_seconds: that all may take.
    """
    inputs, outputs = [os.pipe() for _ in arguments], [os.pipe() for _ in arguments]
    children = [
        (stdin[0], stdout[1], list(map(str, given)))
        for stdin, stdout, given in zip(inputs, outputs, arguments, strict=True)
    ]
    with ExitStack() as stack:
        master = subprocess.Popen(
            [sys.executable, "-c", _MASTER, code, json.dumps(children)],
            cwd=PROJECT,
            pass_fds=[handle for child in children for handle in child[:2]],
            start_new_session=True,
        )
        stack.callback(master.wait)
        stack.callback(_end, master)
        for stdin, stdout, _ in children:
            os.close(stdin)
            os.close(stdout)
        starters = [stack.enter_context(os.fdopen(stdin[1], "w")) for stdin in inputs]
        hear = [stack.enter_context(os.fdopen(stdout[0])) for stdout in outputs]
        for each in hear:
            assert each.readline() == "ready\n"
        for each in starters:
            each.write("go\n")
            each.flush()
        status = master.wait(timeout_seconds)
        said = [each.read() for each in hear]
    assert status == 0
    return said


def _end(master: "subprocess.Popen[bytes]") -> None:
    if master.poll() is None:
        os.killpg(master.pid, 9)  # the session is its own
