"""The command that lists published runs: runs."""

import csv
import sys
from collections.abc import Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from mnist_pipeline.cli.console import opened
from mnist_pipeline.cli.options import Given, command, complete_dataset
from mnist_pipeline.cli.printing import conclude, out, print_table, style
from mnist_pipeline.core.gates import Outcome
from mnist_pipeline.errors import DamagedError, OutputsError, SettingsError, StoreError

if TYPE_CHECKING:
    from mnist_pipeline.cli.results.listed import ListedRun
    from mnist_pipeline.report.terminal import RunLine
    from mnist_pipeline.runs.run import Run


def _date(text: str) -> date:
    from mnist_pipeline.settings import calendar_date

    try:
        return calendar_date(text)
    except ValueError as error:
        raise typer.BadParameter(f"{error}, got {text!r:.40}") from error


def _dated(about: str) -> "typer.models.OptionInfo":
    option: typer.models.OptionInfo = typer.Option(parser=_date, metavar="DATE", help=about, show_default=False)
    return option


@command("outputs", name="runs")
def list_published(
    given: Given,
    dataset: Annotated[
        str | None,
        typer.Option(help="Only runs of this data set.", autocompletion=complete_dataset, show_default=False),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only runs of this split.", show_default=False)] = None,
    since: Annotated[date | None, _dated("Only runs of this date or later.")] = None,
    until: Annotated[date | None, _dated("Only runs of this date or earlier.")] = None,
    outcome: Annotated[
        Outcome | None,
        typer.Option(help="Only runs whose newest verdict is this.", show_default=False),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the newest N of these.", show_default=False)
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
) -> None:
    """List published runs with accuracy and verdict, the newest last."""
    from mnist_pipeline.cli.results.listed import ListedRun, RunsResult
    from mnist_pipeline.report import terminal
    from mnist_pipeline.runs.counting import counting
    from mnist_pipeline.runs.lookup import list_runs

    if as_csv and (style.json or style.quiet):
        raise SettingsError(f"--csv: expected no {'--json' if style.json else '--quiet'} beside it; leave one out")
    if since and until and since > until:
        raise SettingsError(f"--since {since}: expected a date up to --until {until}, got a later one; swap the two")
    settings = given.load()
    outputs, found = opened(settings), list[ListedRun]()
    since_when, newest = counting(outputs), dict[tuple[str, date], tuple[datetime, str]]()
    chosen = list_runs(
        outputs,
        lambda name: (
            (dataset or name.dataset, split or name.split) == (name.dataset, name.split)
            and (since or name.run_date) <= name.run_date <= (until or name.run_date)
        ),
    )
    for run in reversed(chosen):
        if limit and len(found) >= limit and run.name.run_date != found[-1].run_date:
            break  # those of one date are in the order of their publication, which their names do not give
        try:
            since, of_date = since_when(run), (run.name.split_of, run.name.run_date)
        except StoreError:  # its line says that it cannot be read
            since = None
        if since is not None:  # as `newest_counted` orders them
            newest[of_date] = max(newest.get(of_date, (since, "")), (since, run.name.run_id))
        listed = _look_at(run, since is not None)
        if outcome in (None, listed.outcome):
            found.append(listed)
    found.sort(key=lambda run: (run.run_date, str(run.published_at or ""), run.run_id))
    of_dates = {run_id for _, run_id in newest.values()}
    found = [run if run.problem else run.model_copy(update={"is_of_date": run.run_id in of_dates}) for run in found]
    result = RunsResult(outputs=str(settings.outputs), runs=tuple(found[-limit:] if limit else found))
    conclude(result)
    if as_csv:
        _write_csv(result.runs)
    elif result.runs:
        rows = [_line(run) for run in result.runs]
        print_table(lambda width: terminal.runs_table(rows, width))
    elif chosen or dataset or split or since or until:
        out.print(f"no such runs in {settings.outputs}")
    else:
        out.print(f"no runs in {settings.outputs} yet: publish one with `mnist-pipeline run`")


def _look_at(run: "Run", counts: bool) -> "ListedRun":
    from mnist_pipeline.cli.results.listed import ListedRun
    from mnist_pipeline.runs.decisions import standing_of
    from mnist_pipeline.verdicts.records import newest_verdict

    try:
        manifest = run.manifest()
    except OutputsError as error:
        state = "damaged" if isinstance(error, DamagedError) else "cannot be read"
        return ListedRun(**run.name.key_columns, problem=f"{state}: {error}")
    verdict = newest_verdict(run.outputs, manifest.content)
    return ListedRun(
        **run.name.key_columns,
        images=manifest.totals.images,
        labelled=manifest.totals.labelled,
        correct=manifest.totals.correct,
        accuracy=manifest.totals.accuracy,
        outcome=verdict.outcome if verdict else None,
        standing=standing_of(run.outputs, manifest.content),
        counts=counts,
        weights_sha256=manifest.identity.weights_sha256,
        architecture=manifest.architecture,
        published_at=manifest.published_at,
    )


def _line(run: "ListedRun") -> "RunLine":
    """A run as text."""
    from mnist_pipeline.report.terminal import RunLine, accuracy_cell

    if run.problem:
        return RunLine(run.run_id, run.problem.partition(":")[0], "-", "-", "-", "-", "-")
    standing = run.standing or ("" if run.counts else "by hand")
    replaced = "another counts" if run.counts and not run.is_of_date else ""
    return RunLine(
        run_id=run.run_id,
        images=f"{run.images:,}",
        accuracy=accuracy_cell(run.accuracy, run.labelled or 0, run.images or 0),
        verdict=", ".join(filter(None, (run.outcome or "not judged", standing, replaced))),
        weights=str(run.weights_sha256)[:8],
        architecture=str(run.architecture),
        published_at=f"{run.published_at:%Y-%m-%d %H:%M}",
    )


def _write_csv(runs: "Sequence[ListedRun]") -> None:
    """The fields of `ListedRun`, a line each run; what is unknown is empty."""
    from mnist_pipeline.cli.results.listed import ListedRun

    rows = csv.DictWriter(sys.stdout, list(ListedRun.model_fields), lineterminator="\n")
    rows.writeheader()
    rows.writerows(run.model_dump(mode="json") for run in runs)
