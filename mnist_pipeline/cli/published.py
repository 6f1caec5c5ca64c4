"""The commands for one published run or all bytes of them: show, verify."""

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Annotated

import typer

from mnist_pipeline.cli.console import opened
from mnist_pipeline.cli.options import Given, WhichRun, command, run_argument
from mnist_pipeline.cli.printing import conclude, out, print_table
from mnist_pipeline.cli.verdicts import print_verdict
from mnist_pipeline.errors import DamagedError, OutputsError, PipelineError, RunNotFoundError, StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnist_pipeline.cli.results.work import CheckedKind, CheckedRun, State
    from mnist_pipeline.runs.manifest import Pruned
    from mnist_pipeline.runs.outputs import Outputs as OpenedOutputs
    from mnist_pipeline.runs.run import Run
    from mnist_pipeline.settings import Settings


@command("dataset", "split", "outputs")
def show(given: Given, which: WhichRun = "latest") -> None:
    """Show the per-digit table of a published run, and the newest verdict on it."""
    from mnist_pipeline import tables
    from mnist_pipeline.cli.results.runs import ShowResult, facts_of
    from mnist_pipeline.core.tally import DigitScore
    from mnist_pipeline.report import terminal
    from mnist_pipeline.runs.counting import made_by_hand
    from mnist_pipeline.runs.decisions import newest_decision
    from mnist_pipeline.verdicts.finding import find_run
    from mnist_pipeline.verdicts.reading import current_verdict

    settings = given.load()
    found = find_run(opened(settings), which, settings.dataset, settings.split)
    summary = found.read(tables.SUMMARY).select([field.name for field in fields(DigitScore)])
    scores = [DigitScore(**row) for row in summary.to_pylist()]
    manifest, damaged = found.manifest(), list[str]()
    verdict = decision = None
    try:  # what is damaged beside the run must not hide it
        verdict = current_verdict(opened(settings), manifest)
    except DamagedError as error:
        damaged.append(f"verdict: damaged: {error}; running its date again recomputes it")
    try:
        decision = newest_decision(opened(settings), manifest.content)
    except DamagedError as error:
        damaged.append(f"decision: damaged: {error}")
    pruned = found.pruned()
    result = ShowResult(
        **facts_of(found, scores, verdict), pruned_at=pruned.pruned_at if pruned else None, damaged=tuple(damaged)
    )
    conclude(result)
    chance = terminal.chance_suffix(result.totals.correct, result.totals.labelled)
    out.print(f"run {result.run_id}{_pruned(pruned)}{chance}", style="bold")
    out.print(terminal.accuracy_line(result.totals.correct, result.totals.labelled, result.totals.images))
    print_table(lambda width: terminal.digits_table(result.digits, width))
    if verdict:
        print_verdict(verdict)
    elif not damaged:
        out.print("verdict: not judged yet: running its date again judges it")
    for line in damaged:
        out.print(line, style="red")
    if decision:
        out.print(decision.line, style="bold")
    if made_by_hand(found):
        out.print(terminal.not_counted_line(result.run_id))
    for name, location in result.sources.items():
        out.print(f"{name}: {location}")
    out.print(f"architecture {result.architecture}")
    out.print(f"weights sha256 {result.weights_sha256}")
    out.print(f"files: {terminal.path_line(found.files)}")


@command("dataset", "split", "outputs")
def verify(
    given: Given,
    which: Annotated[
        str | None,
        run_argument("RUN", "A run_id, a run date, latest or latest-passed; all if left out."),
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Publish damaged runs again, with the archived weights.")
    ] = False,
) -> None:
    """Check every byte of published runs against their manifests; without RUN also verdicts, shards and weights."""
    from mnist_pipeline.cli.results.work import VerifyResult
    from mnist_pipeline.runs.layout import REPAIRS
    from mnist_pipeline.runs.lookup import list_runs
    from mnist_pipeline.verdicts.finding import find_run

    settings = given.load()
    dataset, split = given.flags["dataset"], given.flags["split"]
    if which is None:
        chosen = [
            item
            for item in list_runs(opened(settings))
            if dataset in (None, item.name.dataset) and split in (None, item.name.split)
        ]
    else:
        chosen = [find_run(opened(settings), which, settings.dataset, settings.split)]
    if not chosen and not _unfinished(opened(settings), dataset, split):
        raise RunNotFoundError(f"{settings.outputs}: expected published runs, got none; check the folder given")
    damaged, unread = set(), 0
    checked: list[CheckedRun] = []
    for item in chosen:
        try:
            problems = item.problems()
            pruned = None if problems else item.pruned()
        except OutputsError as error:  # says nothing of its bytes: it is left alone
            out.print(f"{item.name.run_id}: cannot be read")
            out.print(f"  {error}", style="red")
            checked.append(_checked(item, "unreadable", [str(error)]))
            unread += 1
            continue
        state = "damaged" if problems else f"verified{_pruned(pruned)}"
        out.print(f"{item.name.run_id}: {state}")
        for problem in problems:
            out.print(f"  {problem}", style="red")
        repaired = bool(problems and repair and _repaired(settings, item))
        if problems and not repaired:
            damaged.add(item.name.run_id)
        checked.append(_checked(item, "damaged" if problems else "verified", problems, pruned, repaired))
    unfinished = _unfinished(opened(settings), dataset, split, None if which is None else chosen)
    for run_id in unfinished:
        out.print(f"{run_id}: its repair is unfinished")
    damaged.update(unfinished)
    kinds = _check_beside(opened(settings)) if which is None else ()
    beside = sum(len(kind.problems) for kind in kinds)
    unread += sum(len(kind.unread) for kind in kinds)
    conclude(VerifyResult(runs=tuple(checked), unfinished_repairs=tuple(unfinished), beside=kinds))
    if damaged:
        way_out = (
            f"the reasons are given above; a run of the same date repairs it too, or move it out of "
            f"{settings.outputs / 'runs'}"
            if repair
            else "`mnist-pipeline verify --repair` publishes them again, and so does a run of the same date with the "
            "same weights; damaged files go into quarantine"
        )
        if unfinished:
            way_out = (
                f"unfinished repairs: {len(unfinished)}, with replacements kept in "
                f"{settings.outputs / REPAIRS}; a warning gives the reason: fix it, then "
                f"`mnist-pipeline verify --repair` completes them; otherwise {way_out}"
            )
        count = len({item.name.run_id for item in chosen} | damaged)
        raise DamagedError(f"runs damaged: {len(damaged)} of {count}; {way_out}")
    if beside:
        raise DamagedError(f"damaged beside the runs: {beside}; each line above says how to repair it")
    if unread:
        raise StoreError(
            f"{settings.outputs}: expected to read everything, got {unread} that cannot be read; each line above says "
            "why, nothing is known to be damaged: correct that, then verify again"
        )
    out.print(f"runs verified: {len(chosen)}")


def _unfinished(
    outputs: "OpenedOutputs", dataset: str | None, split: str | None, among: "Sequence[Run] | None" = None
) -> list[str]:
    """The runs, of all or of the given ones, whose repair is unfinished."""
    from mnist_pipeline.runs.lookup import pending_repairs

    return [
        name.run_id
        for name in pending_repairs(outputs)
        if dataset in (None, name.dataset)
        and split in (None, name.split)
        and (among is None or name in [run.name for run in among])
    ]


def _check_beside(outputs: "OpenedOutputs") -> "tuple[CheckedKind, ...]":
    """Check verdicts, decisions, shards and weights."""
    from mnist_pipeline.cli.results.work import CheckedKind
    from mnist_pipeline.maintenance.verification import CHECKS, verify_kind

    found = [verify_kind(outputs, what, check) for what, check in CHECKS.items()]
    for verified in found:
        out.print(verified.line)
        for problem in (*verified.problems, *verified.unread):
            out.print(f"  {problem}", style="red")
    return tuple(CheckedKind(**asdict(verified)) for verified in found)


def _checked(
    item: "Run", state: "State", problems: "Sequence[str]", pruned: "Pruned | None" = None, repaired: bool = False
) -> "CheckedRun":
    from mnist_pipeline.cli.results.work import CheckedRun

    pruned_at = pruned.pruned_at if pruned else None
    return CheckedRun(
        run_id=item.name.run_id, state=state, problems=tuple(problems), pruned_at=pruned_at, repaired=repaired
    )


def _pruned(pruned: "Pruned | None") -> str:
    return f" (its predictions were pruned at {pruned.pruned_at:%Y-%m-%d %H:%M} UTC)" if pruned else ""


def _repaired(settings: "Settings", item: "Run") -> bool:
    from mnist_pipeline.pipeline.repair import repair

    try:
        repair(settings, item)
    except PipelineError as error:  # one failure must not prevent the repair of the others
        out.print(f"  not repaired: {error}", style="red")
        return False
    out.print("  published again")
    return True
