"""Kills a command, or refuses what it asks of the file system, at one system call after the other, and looks.

`python -m tests.promises.faults FOLDER` is a server: it imports everything once and then forks a victim for each fault.
It reads faults from its standard input and writes what came of each to its standard output, in lines of JSON.
`Torturer` is its client. The commands are in `attempts.py`, what must hold is in `oracle.py`.
"""

import ctypes
import json
import logging
import mmap
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn
from unittest import mock

from mnist_pipeline.errors import PipelineError
from mnist_pipeline.pipeline import evaluation
from mnist_pipeline.store import files
from tests.promises.attempts import Attempt, Attempts

PROJECT = Path(__file__).parents[2]
STRACE = "strace"
WATCHED = "trace=%file,%desc"  # no others can change what is seen
HASH_CACHE = "mmap"  # strace counts it among them; what is mapped here is memory, and no file
KILL = "KILL"
# A file grows to so many bytes and not further: a write is cut short there, and the next one is refused or kills.
CUT, CUT_AND_KILLED = "CUT", "CUT AND KILLED"
PR_SET_PTRACER, PR_SET_PTRACER_ANY = 0x59616D61, -1  # prctl(2); PTRACE_MODE_ATTACH under Yama
BEGIN, DONE = signal.SIGUSR1, signal.SIGUSR2
RETRY_WINDOW_SECONDS = 60
Ended = Literal["well", "refused", "broken", "killed", "hung"]


@dataclass(frozen=True)
class Call:
    """A system call of an attempt: its name, how manieth of that name it is, from 1, and how strace shows it."""

    name: str
    number: int
    shown: str


@dataclass(frozen=True)
class Fault:
    """What happens at the `number`th system call `call` of an attempt: KILL, or the error that is returned.

    Of CUT and CUT_AND_KILLED `number` is the size in bytes of the largest file there can be.
    """

    attempt: str
    call: str
    number: int
    happens: str


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended, what it said, what lies about in the end, and everything that is not as promised.

    `met` is False if the attempt ended before it came to that system call.
    """

    ended: Ended
    met: bool
    said: str
    warned: tuple[str, ...]
    left: tuple[str, ...]
    wrong: tuple[str, ...]


class CannotTrace(Exception):
    """There is no strace, or it may not look at processes."""


class Torturer:
    """The client of a server of its own.

    Raises:
        CannotTrace: see there.
    """

    def __init__(self, folder: Path) -> None:
        if shutil.which(STRACE) is None:
            raise CannotTrace("strace is not installed")
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.promises.faults", folder],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            if problem := self._ask({}):
                raise CannotTrace(problem)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._server.kill()
        self._server.communicate()

    def calls(self, attempt: str) -> list[Call]:
        """The system calls of an attempt that nothing disturbs, in order."""
        return [Call(**each) for each in self._ask({"attempt": attempt})]

    def attack(self, fault: Fault) -> Outcome:
        """Let one fault happen."""
        return Outcome(**self._ask(asdict(fault)))

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        assert answer, f"the server ended at {request}"
        return json.loads(answer)


class Inline(Executor):
    """Runs everything on the thread that asks.

    strace counts the calls of each thread by itself, and only with one does the N-th come at the same place each time.
    """

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


class Warned(logging.Handler):
    """Keeps warnings, and writes none: that would be a system call of ours."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


class Notes:
    """What a child tells its parent, without a system call that would be counted."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1 << 20)

    def write(self, content: Any) -> None:
        data = json.dumps(content).encode()
        self._memory[: len(data) + 1] = data + b"\0"

    def take(self) -> Any:
        data = self._memory[: self._memory.find(b"\0")]
        self._memory[0] = 0
        return json.loads(data) if data else None


class Server:
    """Tries the attempts of a folder. A process of one thread, so that whatever it forks is sound."""

    def __init__(self, folder: Path) -> None:
        self._attempts = Attempts(folder)
        self._notes = Notes()
        self._log = folder / "strace.log"
        self._warned = Warned()
        logger = logging.getLogger("mnist_pipeline")
        logger.addHandler(self._warned)
        logger.propagate = False
        signal.pthread_sigmask(signal.SIG_BLOCK, {BEGIN, DONE, signal.SIGCHLD})  # they are waited for

    def answer(self, request: dict[str, Any]) -> Any:
        """A problem with strace, or the calls of an attempt, or what came of a fault."""
        if not request:
            return self._problem()
        if len(request) == 1:
            return [asdict(call) for call in self._calls(request["attempt"])]
        return asdict(self._attack(Fault(**request)))

    def _problem(self) -> str | None:
        try:
            self._fork(lambda: None, [WATCHED])
        except CannotTrace as error:
            return str(error)
        return None

    def _calls(self, name: str) -> list[Call]:
        attempt = self._attempts[name]
        attempt.reset()
        self._fork(lambda: self._notes.write(self._try(attempt)), [WATCHED])
        outcome = self._notes.take()
        assert outcome["ended"] == "well", outcome
        names = re.findall(r"^(\w+)(\(.*)$", self._log.read_text(), re.MULTILINE)
        counted: Counter[str] = Counter()
        calls = []
        for call, shown in names:
            if call == HASH_CACHE:
                continue
            counted[call] += 1
            calls.append(Call(call, counted[call], call + shown))
        return calls

    def _attack(self, fault: Fault) -> Outcome:
        attempt = self._attempts[fault.attempt]
        attempt.reset()
        # An engine tries a task again in the same process, where what was left open or locked must not be in the way.
        # But of a close that it refuses strace tells the kernel nothing, and the file stays open.
        same_process = fault.call != "close"

        def victim() -> None:
            with _cut_files(fault):
                self._notes.write(self._try(attempt))

        def repeat() -> None:
            outcome = self._notes.take()
            self._notes.write(outcome)
            if same_process:
                self._notes.write(self._look(attempt, outcome))

        status = self._fork(victim, _options(fault), repeat)
        outcome = self._notes.take() or {"ended": "hung" if status == -signal.SIGALRM else "killed"}
        met = outcome["ended"] == "killed" or not fault.call or "(INJECTED)" in self._log.read_text()
        if "wrong" not in outcome:
            self._fork(lambda: self._notes.write(self._look(attempt, outcome)))
            outcome = self._notes.take() or {**outcome, "wrong": ["the command hung when it was repeated"]}
        return Outcome(**{"met": met, "said": "", "warned": (), "left": (), **outcome})

    def _try(self, attempt: Attempt) -> dict[str, Any]:
        try:
            attempt.run()
            ended: dict[str, Any] = {"ended": "well"}
        except PipelineError as error:
            ended = {"ended": "refused", "said": str(error)}
        except Exception:
            ended = {"ended": "broken", "said": traceback.format_exc()}
        return {**ended, "warned": list(self._warned.messages)}

    def _look(self, attempt: Attempt, outcome: dict[str, Any]) -> dict[str, Any]:
        """Look at what is there, repeat the command, and look again."""
        wrong = [f"{outcome['ended']}: {outcome.get('said')}"] if outcome["ended"] in ("broken", "hung") else []
        try:
            wrong += attempt.unsound()
            if outcome["ended"] == "well" and not outcome["warned"]:
                wrong += [f"well, but {problem}" for problem in attempt.undone()]
            attempt.again()
            wrong += [f"repeated, but {problem}" for problem in (*attempt.unsound(), *attempt.undone_again())]
        except Exception:
            wrong.append(traceback.format_exc())
        return {**outcome, "left": attempt.left(), "wrong": wrong}

    def _fork(
        self, function: Callable[[], object], traced: Sequence[str] = (), then: Callable[[], object] = lambda: None
    ) -> int:
        """Do something in a child, which strace has in its hands if it is given expressions, and then more without it.

        Returns:
            How the child ended.
        """
        if (child := os.fork()) == 0:
            _be_child(function, bool(traced), then)
        if not traced:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        options = [part for expression in traced for part in ("-e", expression)]
        command = [STRACE, "-o", str(self._log), *options, "-p", str(child)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr is not None
            if "attached" not in (said := strace.stderr.readline()):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                raise CannotTrace(said.strip())
            os.kill(child, BEGIN)
            ended = None
            while ended is None and signal.sigwait({DONE, signal.SIGCHLD}) != DONE:
                ended = _ended(child)
            strace.terminate()  # lets go of the child
        if ended is None:
            os.kill(child, BEGIN)
            ended = os.waitpid(child, 0)[1]
        return os.waitstatus_to_exitcode(ended)


def _be_child(function: Callable[[], object], traced: bool, then: Callable[[], object]) -> NoReturn:
    try:
        signal.alarm(RETRY_WINDOW_SECONDS)
        if traced:
            # Where one may trace one's children only, strace needs to be let: it is not the parent.
            ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(PR_SET_PTRACER_ANY), 0, 0, 0)
            signal.sigwait({BEGIN})
        function()
        if traced:
            os.kill(os.getppid(), DONE)
            signal.sigwait({BEGIN})
        then()
        os._exit(0)
    finally:
        traceback.print_exc()
        os._exit(1)


def _ended(child: int) -> int | None:
    """The status of a child that has ended, else None."""
    pid, status = os.waitpid(child, os.WNOHANG)
    return status if pid else None


def _options(fault: Fault) -> list[str]:
    if not fault.call:
        return []
    happens = f"signal={KILL}" if fault.happens == KILL else f"error={fault.happens}"
    return [f"trace={fault.call}", f"inject={fault.call}:{happens}:when={fault.number}"]


@contextmanager
def _cut_files(fault: Fault) -> Iterator[None]:
    if fault.happens not in (CUT, CUT_AND_KILLED):
        yield
        return
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN if fault.happens == CUT else signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (fault.number, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def main(folder: Path) -> NoReturn:
    """Answer requests until there are no more."""
    for module in (files, evaluation):
        mock.patch.object(module, "ThreadPoolExecutor", Inline).start()
    server = Server(folder)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(server.answer(json.loads(line))) + "\n")
        sys.stdout.flush()
    os._exit(0)  # whatever threads a web server has


if __name__ == "__main__":
    main(Path(sys.argv[1]))
