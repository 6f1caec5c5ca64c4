"""The commands for published runs: runs, show, verify."""

from typing import TYPE_CHECKING, Annotated

import typer

from mnist_pipeline.cli.console import app, opened, out, print_lines
from mnist_pipeline.cli.options import Given, WhichRun, takes
from mnist_pipeline.cli.verdicts import print_verdict
from mnist_pipeline.errors import DamagedError, OutputsError, PipelineError, RunNotFoundError, StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnist_pipeline.runs.manifest import Manifest, Pruned
    from mnist_pipeline.runs.outputs import Outputs as OpenedOutputs
    from mnist_pipeline.runs.run import Run
    from mnist_pipeline.settings import Settings


@app.command("runs")
@takes("outputs")
def list_published(given: Given) -> None:
    """List the published runs."""
    from mnist_pipeline.report import terminal
    from mnist_pipeline.runs.counting import counting
    from mnist_pipeline.runs.decisions import standing_of
    from mnist_pipeline.runs.lookup import list_runs
    from mnist_pipeline.verdicts.records import newest_verdict

    settings = given.load()
    rows, since = [], counting(opened(settings))
    for item in list_runs(opened(settings)):
        try:
            manifest = item.manifest()
        except OutputsError as error:
            state = "damaged" if isinstance(error, DamagedError) else "cannot be read"
            rows.append(terminal.RunLine(item.name.run_id, state, "-", "-", "-", "-"))
            continue
        verdict = newest_verdict(opened(settings), manifest.content)
        standing = standing_of(opened(settings), manifest.content) or ("" if since(item) else "by hand")
        outcome = verdict.outcome if verdict else "not judged"
        rows.append(
            terminal.RunLine(
                run_id=item.name.run_id,
                images=f"{manifest.totals.images:,}",
                accuracy=terminal.percent(manifest.totals.accuracy),
                verdict=f"{outcome}, {standing}" if standing else outcome,
                weights=manifest.identity.weights_sha256[:8],
                published_at=f"{manifest.published_at:%Y-%m-%d %H:%M}",
            )
        )
    rows.sort(key=lambda row: (row.run_id[:10], row.published_at))
    if rows:
        print_lines(lambda width: terminal.runs_table(rows, width))
    else:
        out.print(f"no runs in {settings.outputs} yet: publish one with `mnist-pipeline run`", soft_wrap=True)


@app.command()
@takes("dataset", "split", "outputs")
def show(given: Given, which: WhichRun = "latest") -> None:
    """Show the per-digit table of a published run, and the newest verdict on it."""
    from dataclasses import fields

    from mnist_pipeline import tables
    from mnist_pipeline.core.tally import DigitScore
    from mnist_pipeline.report import terminal
    from mnist_pipeline.runs.counting import made_by_hand
    from mnist_pipeline.verdicts.finding import find_run

    settings = given.load()
    found = find_run(opened(settings), which, settings.dataset, settings.split)
    summary = found.read(tables.SUMMARY).select([field.name for field in fields(DigitScore)])
    manifest = found.manifest()
    chance = terminal.chance_suffix(manifest.totals.correct, manifest.totals.labelled)
    out.print(f"run {found.name.run_id}{_pruned(found.pruned())}{chance}", style="bold", soft_wrap=True)
    out.print(terminal.accuracy_line(manifest.totals.correct, manifest.totals.labelled), soft_wrap=True)
    out.print(terminal.digits_table([DigitScore(**row) for row in summary.to_pylist()]))
    _show_verdict(settings, manifest)
    _show_decision(settings, manifest)
    if made_by_hand(found):
        out.print(terminal.not_counted_line(found.name.run_id), soft_wrap=True)
    out.print(f"weights sha256 {manifest.identity.weights_sha256}", soft_wrap=True)
    out.print(f"files: {terminal.path_line(found.files)}", soft_wrap=True)


def _show_verdict(settings: "Settings", manifest: "Manifest") -> None:
    from mnist_pipeline.pipeline.judging import current_verdict

    try:
        verdict = current_verdict(opened(settings), manifest)
    except DamagedError as error:  # a damaged verdict must not hide the run
        out.print(f"verdict: damaged: {error}; running its date again recomputes it", style="red", soft_wrap=True)
        return
    if verdict is None:
        out.print("verdict: not judged yet: running its date again judges it")
    else:
        print_verdict(verdict)


def _show_decision(settings: "Settings", manifest: "Manifest") -> None:
    from mnist_pipeline.runs.decisions import newest_decision

    try:
        if decision := newest_decision(opened(settings), manifest.content):
            out.print(decision.line, style="bold", soft_wrap=True)
    except DamagedError as error:
        out.print(f"decision: damaged: {error}", style="red", soft_wrap=True)


@app.command()
@takes("dataset", "split", "outputs")
def verify(
    given: Given,
    which: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="A run_id, a run date, latest or latest-passed; all if left out."),
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Publish damaged runs again, with the archived weights.")
    ] = False,
) -> None:
    """Check every byte of published runs against their manifests; without RUN also verdicts, shards and weights."""
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
    for item in chosen:
        try:
            problems = item.problems()
            pruned = None if problems else item.pruned()
        except OutputsError as error:  # says nothing of its bytes: it is left alone
            out.print(f"{item.name.run_id}: cannot be read", soft_wrap=True)
            out.print(f"  {error}", style="red", soft_wrap=True)
            unread += 1
            continue
        state = "damaged" if problems else f"verified{_pruned(pruned)}"
        out.print(f"{item.name.run_id}: {state}", soft_wrap=True)
        for problem in problems:
            out.print(f"  {problem}", style="red", soft_wrap=True)
        if problems and not (repair and _repaired(settings, item)):
            damaged.add(item.name.run_id)
    unfinished = _unfinished(opened(settings), dataset, split, None if which is None else chosen)
    for run_id in unfinished:
        out.print(f"{run_id}: its repair is unfinished", soft_wrap=True)
    damaged.update(unfinished)
    beside, unread_beside = _check_beside(opened(settings)) if which is None else (0, 0)
    unread += unread_beside
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


def _check_beside(outputs: "OpenedOutputs") -> tuple[int, int]:
    """Check verdicts, decisions, shards and weights; return the numbers of damaged ones and of those not readable."""
    from mnist_pipeline.maintenance.verification import CHECKS, verify_kind

    found = [verify_kind(outputs, what, check) for what, check in CHECKS.items()]
    for verified in found:
        out.print(verified.line)
        for problem in (*verified.problems, *verified.unread):
            out.print(f"  {problem}", style="red", soft_wrap=True)
    return sum(len(verified.problems) for verified in found), sum(len(verified.unread) for verified in found)


def _pruned(pruned: "Pruned | None") -> str:
    return f" (its predictions were pruned at {pruned.pruned_at:%Y-%m-%d %H:%M} UTC)" if pruned else ""


def _repaired(settings: "Settings", item: "Run") -> bool:
    from mnist_pipeline.pipeline.repair import repair

    try:
        repair(settings, item)
    except PipelineError as error:  # one failure must not prevent the repair of the others
        out.print(f"  not repaired: {error}", style="red", soft_wrap=True)
        return False
    out.print("  published again", soft_wrap=True)
    return True
