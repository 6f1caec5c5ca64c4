"""Runs a command and measures it: wall seconds, CPU seconds, memory of its whole process tree."""

import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

POLL_SECONDS = 0.1  # between looks at the memory, each of which stops the process for some milliseconds
TIMEOUT_SECONDS = 1800


@dataclass(frozen=True)
class Measured:
    """One run of a command.

    Attributes:
        seconds: from start to exit.
        cpu_seconds: user and system, of the command and the children it waited for.
        tree_mib: peak memory of all its processes together, in PSS: shared pages are divided among their users; 0 if it
            was not measured.
        largest_mib: peak memory (PSS) of the largest process, or 0.
    """

    seconds: float
    cpu_seconds: float
    tree_mib: float
    largest_mib: float


def run(words: Sequence[str], cwd: Path, environment: Mapping[str, str], memory: bool = True) -> Measured:
    """Run a command to its end, on a disk that is not still busy with what others wrote.

    Without `memory` nothing looks at the process meanwhile, so that its seconds are exact.

    Raises:
        RuntimeError: the command failed, timed out or left processes behind.
    """
    os.sync()
    with tempfile.TemporaryFile("w+") as log:
        before = os.times()
        begun = time.perf_counter()
        process = subprocess.Popen(words, cwd=cwd, env=dict(environment), stdout=log, stderr=log)
        tree, seen = psutil.Process(process.pid), dict[int, psutil.Process]()
        tree_mib = largest_mib = 0.0
        while memory and process.poll() is None:
            if time.perf_counter() - begun > TIMEOUT_SECONDS:
                process.kill()
            sizes = _sizes(tree, seen)
            tree_mib, largest_mib = max(tree_mib, sum(sizes)), max([largest_mib, *sizes])
            time.sleep(POLL_SECONDS)
        process.wait()
        seconds = time.perf_counter() - begun
        after = os.times()
        log.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(words)} ended with {process.returncode}:\n{log.read()[-3000:]}")
    left = psutil.wait_procs([each for each in seen.values() if each.is_running()], timeout=20)[1]
    if left:
        raise RuntimeError(f"{' '.join(words)} left processes behind: {left}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Measured(round(seconds, 3), round(cpu, 3), round(tree_mib, 1), round(largest_mib, 1))


def machine() -> dict[str, Any]:
    """CPU, cores, memory and system of this machine."""
    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    return {
        "cpu": model,
        "cores": len(psutil.Process().cpu_affinity() or []) or psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _sizes(tree: psutil.Process, seen: dict[int, psutil.Process]) -> list[float]:
    sizes = []
    try:
        processes = [tree, *tree.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
    for process in processes:
        seen[process.pid] = process
        try:
            sizes.append(process.memory_full_info().pss / 2**20)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return sizes
