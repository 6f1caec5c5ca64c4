"""Killed or refused at any system call of publishing: what is visible is whole, and the same command ends it.

What a fault is and how it is made to happen: `faults.py`. What must hold: `oracle.py`.
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator

import pytest

from tests.promises.attempts import EARLIER
from tests.promises.conftest import Tried
from tests.promises.faults import CUT, CUT_AND_KILLED, KILL, Call, CannotTrace, Fault, Torturer
from tests.promises.mutants import NAMED, Mutant

PUBLISHING = ("publish", "repair", "judge", "promote", "pin")
SHORT = ("publish",)  # tests/promises/test_store_faults.py tries all between two operations
BEGINNING = ("download", "unpack")
NAMES = {"mkdir", "rename", "link", "unlink", "unlinkat", "rmdir"}
# What a full disk and one that can only be read refuse; a failing one refuses anything.
UNAUTHORIZED_STATUSES = {"ENOSPC": {"openat", "write", "mkdir", "rename", "link", "fsync"}, "EROFS": {"openat", *NAMES}}
HAPPENS = (KILL, "EIO", *UNAUTHORIZED_STATUSES)
SEED = 20260131
# What may stay behind and nobody reads: unfinished files, a verdict's staging directory, what is on its way to a name
# that nobody may have taken or to deletion, locks that nobody holds.
SCRATCH = re.compile(
    r"(cache/.*|outputs/\.staging)/\.[^/]+\.[0-9a-f]{32}"
    r"|outputs/\.staging/(verdict-[^/]+|(\d{6}\.json|deleted)-[0-9a-f]{32}|[^/]+\.lock)"
    r"|cache/toy/\.unpack-[^/]+"
)


@pytest.fixture(scope="module")
def torturer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Torturer]:
    try:
        torturer = Torturer(tmp_path_factory.mktemp("torture"))
    except CannotTrace as error:
        pytest.skip(f"a fault at one system call takes strace: {error}")
    yield torturer
    torturer.close()


def at(
    torturer: Torturer, attempt: str, happens: str, which: Callable[[Call], object] = lambda call: True
) -> list[Fault]:
    """The faults of a kind at those calls of an attempt where there can be one."""
    return [
        Fault(attempt, call.name, call.number, happens)
        for call in torturer.calls(attempt)
        if call.name in UNAUTHORIZED_STATUSES.get(happens, {call.name}) and which(call)
    ]


def survives(torturer: Torturer, faults: Iterable[Fault]) -> int:
    """How many of the faults have happened; of none came anything that is not as promised."""
    met = 0
    for fault in faults:
        outcome = torturer.attack(fault)
        assert not outcome.wrong, f"{fault}: {outcome}"
        assert all(SCRATCH.fullmatch(name) for name in outcome.left), f"{fault}: {outcome.left}"
        met += outcome.met
    return met


def changes_what_is_seen(call: Call) -> bool:
    """Between two such calls a kill at one moment leaves what a kill at another does."""
    done = "= -1" not in call.shown
    return done and (call.name in NAMES or (call.name == "write" and call.shown.count("PAR1") == 0))


@pytest.mark.parametrize(
    "attempt",
    [name if name in SHORT else pytest.param(name, marks=pytest.mark.torture) for name in PUBLISHING],
)
def test_killed_at_any_step_that_could_be_seen_it_leaves_only_what_is_whole_and_the_next_ends_it(
    attempt: str, torturer: Torturer, tried: Tried
) -> None:
    which = changes_what_is_seen if attempt != "judge" else lambda call: call.name in {"rename", "link", "unlink"}
    faults = at(torturer, attempt, KILL, which)
    assert survives(torturer, faults) == len(faults) > 1
    tried(len(faults), f"kills during {attempt}")


@pytest.mark.parametrize(
    "attempts", [pytest.param(SHORT, id="short"), pytest.param(PUBLISHING, id="all", marks=pytest.mark.torture)]
)
def test_refused_here_and_there_it_says_so_or_warns_or_ends_well_and_the_next_ends_it(
    attempts: tuple[str, ...], torturer: Torturer, tried: Tried
) -> None:
    drawn = random.Random(SEED)
    every = [fault for attempt in attempts for happens in HAPPENS[1:] for fault in at(torturer, attempt, happens)]
    # What an attempt that is refused holds, the next one in its process needs: the locks of its staging directory and
    # of the views.
    held = [
        fault
        for fault in every
        if (fault.attempt, fault.happens) == ("publish", "EIO")
        and (fault.call == "unlink" or (fault.call, fault.number) == ("getdents64", 1))
    ]
    met = survives(torturer, held + drawn.sample(every, 4 * len(attempts)))
    tried(met, "system calls refused during publishing")


@pytest.mark.torture
def test_a_repair_that_is_refused_a_name_or_a_sync_leaves_the_run_or_its_replacement(
    torturer: Torturer, tried: Tried
) -> None:
    faults = at(torturer, "repair", "EIO", lambda call: call.name in {"rename", "link", "fsync"})
    faults += at(torturer, "repair", "ENOSPC", lambda call: call.name in {"rename", "link"})
    assert survives(torturer, faults) == len(faults) > 20
    tried(len(faults), "names and syncs refused during repair")


def test_killed_or_refused_before_there_is_anything_to_publish_the_next_night_is_as_if_undisturbed(
    torturer: Torturer, tried: Tried
) -> None:
    drawn = random.Random(SEED)
    every = [fault for attempt in BEGINNING for happens in HAPPENS for fault in at(torturer, attempt, happens)]
    tried(survives(torturer, drawn.sample(every, 3)), "faults in download, sharding and inference")


def test_cut_short_in_the_middle_of_a_file_it_leaves_only_what_is_whole(torturer: Torturer, tried: Tried) -> None:
    faults = [Fault("publish", "", size, happens) for size in (100, 5000) for happens in (CUT, CUT_AND_KILLED)]
    tried(survives(torturer, faults), "writes cut short")


@pytest.mark.torture
def test_a_reference_that_could_once_not_be_read_does_not_stand_for_ever_in_the_verdict(torturer: Torturer) -> None:
    of_reference = f"{EARLIER}-toy"
    reads = at(
        torturer,
        "judge",
        "EIO",
        lambda call: call.name == "openat" and of_reference in call.shown and "/predictions/part" in call.shown,
    )
    assert survives(torturer, reads[:1]) == 1


@pytest.mark.slow  # that the oracle can find anything at all
def test_a_publisher_who_puts_one_file_after_the_other_in_its_place_is_found_guilty(torturer: Torturer) -> None:
    kills = at(
        torturer, "publish unsafely", KILL, lambda call: "O_CREAT" in call.shown and "outputs/runs/" in call.shown
    )
    outcome = torturer.attack(kills[len(kills) // 2])
    assert outcome.ended == "killed"
    assert any("no manifest.json" in problem or "files are" in problem for problem in outcome.wrong)


@pytest.mark.torture
@pytest.mark.parametrize("happens", HAPPENS)
@pytest.mark.parametrize("attempt", PUBLISHING)
def test_every_system_call_of_publishing_may_be_the_one_that_fails(
    attempt: str, happens: str, torturer: Torturer, tried: Tried
) -> None:
    faults = at(torturer, attempt, happens)
    met = survives(torturer, faults)
    assert met > 0.9 * len(faults)
    tried(met, f"system calls of {attempt}: {happens}")


@pytest.mark.torture
@pytest.mark.parametrize("happens", HAPPENS)
@pytest.mark.parametrize("attempt", BEGINNING)
def test_many_system_calls_of_a_whole_night_may_be_the_one_that_fails(
    attempt: str, happens: str, torturer: Torturer, tried: Tried
) -> None:
    faults = random.Random(SEED).sample(at(torturer, attempt, happens), 50)
    tried(survives(torturer, faults), f"system calls of a night from {attempt}: {happens}")


@pytest.mark.torture
@pytest.mark.parametrize("happens", [CUT, CUT_AND_KILLED])
@pytest.mark.parametrize("attempt", ["publish", "judge", "unpack"])
def test_a_write_may_be_cut_short_anywhere(attempt: str, happens: str, torturer: Torturer, tried: Tried) -> None:
    faults = [Fault(attempt, "", size, happens) for size in range(1, 25_000, 1_000)]
    tried(survives(torturer, faults), f"writes of {attempt}: {happens}")


KILLED = test_killed_at_any_step_that_could_be_seen_it_leaves_only_what_is_whole_and_the_next_ends_it.__name__
REFUSED_AT_TIMES = test_refused_here_and_there_it_says_so_or_warns_or_ends_well_and_the_next_ends_it.__name__
LOCAL = "mnist_pipeline/store/local.py"
MUTANTS = (
    Mutant(
        LOCAL, "                old.rename(new)\n", "                shutil.copytree(old, new)\n", KILLED
    ),  # not in one step
    Mutant(  # the manifest comes last
        LOCAL,
        '        self.write(f"{staged}/{document}", data, sync=False)\n        return self.move(staged, target)\n',
        "        new = self.move(staged, target)\n"
        '        self.write(f"{target}/{document}", data)\n        return new\n',
        KILLED,
    ),
    Mutant(  # in place
        "mnist_pipeline/store/disk.py",
        NAMED,
        "            path.write_bytes(data if isinstance(data, bytes) else data.read_bytes())\n"
        "            os.unlink(unfinished)\n",
        KILLED,
    ),
    Mutant(  # a promotion that is seen before it is whole
        LOCAL,
        "                os.link(ready, path)  # unlike a rename, fails if the name is taken\n",
        "                path.write_bytes(data)\n",
        KILLED,
    ),
    Mutant(  # a damaged run that leaves its place before its replacement is recorded
        "mnist_pipeline/runs/replacement.py",
        "            _complete(run)  # what an attempt before has recorded\n",
        "            folder = layout.run_folder(run.name.run_id)\n"
        "            move_to_quarantine(run.outputs, folder, layout.MANIFEST, lambda: _why_replaced(run))\n",
        KILLED,
    ),
    Mutant(  # a lock that is not released once its file cannot be removed
        "mnist_pipeline/store/locks.py",
        "    with suppress(OSError):\n        if shared:",
        "    if True:\n        if shared:",
        REFUSED_AT_TIMES,
    ),
    Mutant(  # a lock that is held by an attempt that is over
        LOCAL,
        "        try:\n            yield handle is not None\n        finally:\n            if handle is not None:\n",
        "        yield handle is not None\n        if True:\n            if handle is not None:\n",
        REFUSED_AT_TIMES,
    ),
    Mutant(  # what was once not readable is said for ever
        "mnist_pipeline/pipeline/judging.py",
        "    if problems := before.problems():\n",
        "    try:\n        problems = before.problems()\n    except Exception as error:\n"
        "        return _Chosen(before.manifest().content, str(error))\n    if problems:\n",
        test_a_reference_that_could_once_not_be_read_does_not_stand_for_ever_in_the_verdict.__name__,
    ),
)
