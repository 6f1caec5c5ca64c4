"""The commands for verdicts and views: compare, baseline, accept, withdraw, promote, report, open, reindex."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mnist_pipeline.cli.console import app, opened, opened_existing, progress_for
from mnist_pipeline.cli.options import OF_IMAGES, Given, WhichRun, command, run_argument
from mnist_pipeline.cli.printing import conclude, out, print_table
from mnist_pipeline.errors import MAX_LISTED, OutputsError, RunNotFoundError, StoreError, VerdictError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Literal

    from mnist_pipeline.pipeline.judging import Judged
    from mnist_pipeline.settings import Settings
    from mnist_pipeline.verdicts.reading import Verdict

baseline = typer.Typer(help="Pin the run that all later ones are compared with.", no_args_is_help=True)
app.add_typer(baseline, name="baseline")


def print_verdict(verdict: "Verdict") -> None:
    """Print the outcome, each gate that did not pass, and the references."""
    from mnist_pipeline.report import terminal

    for line in terminal.verdict_lines(verdict.outcome, verdict.results, verdict.references, verdict.notes):
        out.print(line)


def require_accepted(judged: "Sequence[Judged]") -> None:
    """Raise VerdictError if the verdict on one of the runs fails it."""
    if rejected := [each for each in judged if not each.accepted]:
        raise VerdictError("; ".join(each.line for each in rejected) + "; what was published stays published")


@command("dataset", "split", "outputs")
def compare(
    given: Given,
    before: Annotated[str, run_argument("A", "The run before: run_id, date, latest or latest-passed.")],
    now: Annotated[str, run_argument("B", "The run now: run_id, date, latest or latest-passed.")],
) -> None:
    """Compare two published runs: images lost and gained, with their statistical significance."""
    from mnist_pipeline.cli.results.compared import CompareResult, InputFacts
    from mnist_pipeline.cli.results.runs import compared
    from mnist_pipeline.pipeline import judging
    from mnist_pipeline.report import terminal
    from mnist_pipeline.runs.summary import read_inputs
    from mnist_pipeline.verdicts.finding import find_run
    from mnist_pipeline.verdicts.reading import comparison_rows

    settings = given.load()
    old, new = (find_run(opened(settings), which, settings.dataset, settings.split) for which in (before, now))
    found = judging.compare(old, new, "given")
    rows = comparison_rows(found.comparisons)
    inputs = read_inputs(old), read_inputs(new)
    result = CompareResult(
        before=old.name.run_id,
        now=new.name.run_id,
        **compared(found),
        architecture_before=old.manifest().architecture,
        architecture_now=new.manifest().architecture,
        inputs_before=InputFacts.of(inputs[0]),
        inputs_now=InputFacts.of(inputs[1]),
    )
    conclude(result)
    out.print(f"from {result.before}")
    out.print(f"to   {result.now}")
    out.print(terminal.changes_line(found, result.architecture_before, result.architecture_now))
    if result.comparisons:
        print_table(lambda width: terminal.comparison_table(rows, width))
        out.print(f"p: two-sided, in brackets for ten digits (Holm). {result.comparisons[0].method}")
    elif unlabelled := [run.name.run_id for run in (old, new) if not run.manifest().totals.labelled]:
        out.print(f"accuracies are not compared: no labels in {' and '.join(unlabelled)}")
    out.print()
    if any(inputs):
        print_table(lambda width: terminal.inputs_table(*inputs, width))
    out.print(terminal.blank_line(*inputs))


@command("dataset", "split", "outputs", of=baseline, name="set")
def set_pinned(given: Given, which: WhichRun) -> None:
    """Pin a run: from now on runs of its data set and split are compared with it too."""
    from mnist_pipeline.tables import PREDICTIONS
    from mnist_pipeline.verdicts.baselines import set_baseline
    from mnist_pipeline.verdicts.finding import find_run

    settings = given.load()
    found = find_run(opened(settings), which, settings.dataset, settings.split)
    found.paths(PREDICTIONS)  # raises PrunedError if they were pruned
    name = found.name
    set_baseline(opened(settings), name.dataset, name.split, name.run_id)
    _conclude_pins(settings, {f"{name.dataset}/{name.split}": name.run_id})
    out.print(f"baseline of {name.dataset}/{name.split}: {name.run_id}")


@command("dataset", "split", "outputs", of=baseline, name="clear")
def clear_pinned(given: Given) -> None:
    """Remove the baseline."""
    from mnist_pipeline.verdicts.baselines import set_baseline

    settings = given.load()
    set_baseline(opened_existing(settings), settings.dataset, settings.split, None)
    _conclude_pins(settings, {f"{settings.dataset}/{settings.split}": None})
    out.print(f"baseline of {settings.dataset}/{settings.split}: none")


@command("outputs", of=baseline, name="show")
def show_pinned(given: Given) -> None:
    """Show the pinned runs."""
    from mnist_pipeline.verdicts.baselines import read_baselines

    settings = given.load()
    outputs = opened(settings)
    pinned = read_baselines(outputs)
    _conclude_pins(settings, pinned)
    for name, run_id in pinned.items():
        out.print(f"{name}: {run_id}")
    if not pinned:
        out.print(f"no baseline is set in {outputs}: pin one with `mnist-pipeline baseline set RUN`")


def _conclude_pins(settings: "Settings", pinned: "Mapping[str, str | None]") -> None:
    from mnist_pipeline.cli.results.work import BaselineResult, Pin

    split_of = ((name.partition("/"), run_id) for name, run_id in pinned.items())
    pins = tuple(Pin(dataset=dataset, split=split, run_id=run_id) for (dataset, _, split), run_id in split_of)
    conclude(BaselineResult(outputs=str(settings.outputs), baselines=pins))


Reason = Annotated[str, typer.Option("--reason", help="Why, in a few words; kept with the decision.")]


@command("dataset", "split", "outputs")
def accept(given: Given, which: WhichRun, reason: Reason) -> None:
    """Let a run stand as passed whatever its verdict: later runs are compared with it."""
    _decide(given, which, "accepted", reason)


@command("dataset", "split", "outputs")
def withdraw(given: Given, which: WhichRun, reason: Reason) -> None:
    """Let a run count for nothing: it is neither latest, nor a reference, nor the run of its date. Its files stay."""
    _decide(given, which, "withdrawn", reason)


def _decide(given: Given, which: str, standing: "Literal['accepted', 'withdrawn']", reason: str) -> None:
    from mnist_pipeline.cli.results.work import DecisionResult
    from mnist_pipeline.pipeline.decisions import decide
    from mnist_pipeline.verdicts.finding import find_run

    settings = given.load()
    found = find_run(opened(settings), which, settings.dataset, settings.split)
    decision = decide(opened(settings), found, standing, reason)
    conclude(DecisionResult(**decision.model_dump(include=set(DecisionResult.model_fields))))
    out.print(f"run {found.name.run_id}: {decision.line}")


@command("dataset", "split", "activation", *OF_IMAGES, "outputs")
def promote(
    given: Given,
    weights: Annotated[str, typer.Argument(metavar="WEIGHTS", help="The candidate: .safetensors, .npz or .pkl.")],
    force: Annotated[bool, typer.Option("--force", help="Promote whatever the verdict; the record says so.")] = False,
) -> None:
    """Make weights the current ones, for all later runs, if they lose nothing against the present ones."""
    from mnist_pipeline.cli.results.runs import RunFacts, facts_of
    from mnist_pipeline.cli.results.work import PromoteResult
    from mnist_pipeline.pipeline import promotion
    from mnist_pipeline.report import terminal
    from mnist_pipeline.runs.layout import CANDIDATES
    from mnist_pipeline.runs.lookup import run_by_id
    from mnist_pipeline.runs.outputs import Outputs

    settings = given.load({"weights": "WEIGHTS"}, weights=weights)
    assert settings.weights is not None, "given"
    opened_existing(settings)  # a promotion in another folder than that of the nights would change nothing
    with progress_for() as progress:
        promoted = promotion.promote(settings, settings.weights, force, progress)
    published = promoted.judged.published
    run = run_by_id(Outputs.at(opened(settings).path(CANDIDATES)), published.run_id)
    result = PromoteResult(
        weights_sha256=promoted.weights_sha256,
        previous_sha256=promoted.previous_sha256,
        architecture=published.architecture,
        previous_architecture=promoted.previous_architecture,
        promoted=promoted.record is not None,
        record=str(promoted.record) if promoted.record else None,
        run=RunFacts(**facts_of(run, published.scores, promoted.judged.verdict)),
        accepted_run=promoted.accepted.run_id if promoted.accepted else None,
    )
    conclude(result)
    totals = published.totals
    out.print()
    out.print(f"candidate: {result.architecture}; current: {result.previous_architecture}")
    out.print(terminal.accuracy_line(totals.correct, totals.labelled, totals.images))
    print_verdict(promoted.judged.verdict)
    if promoted.accepted:
        out.print(f"run {promoted.accepted.run_id}: {promoted.accepted.line}")
    if promoted.record:
        out.print(f"promoted: {promoted.weights_sha256}", style="bold")
        out.print(f"before: {promoted.previous_sha256}; record: {terminal.path_line(promoted.record)}")
    elif promoted.weights_sha256 == promoted.previous_sha256:
        out.print("these are the current weights already: nothing to do")
    else:
        raise VerdictError(
            f"{promoted.judged.verdict.line}; not promoted, {promoted.previous_sha256} stays current; "
            "`--force` promotes it all the same"
        )


@command("dataset", "split", "outputs")
def report(given: Given, which: WhichRun = "latest") -> None:
    """Write the report of a published run: one HTML file."""
    from mnist_pipeline.cli.results.work import ReportResult
    from mnist_pipeline.index import try_index
    from mnist_pipeline.pipeline.reporting import write_report
    from mnist_pipeline.report import terminal
    from mnist_pipeline.verdicts.finding import find_run

    settings = given.load()
    found = find_run(opened(settings), which, settings.dataset, settings.split)
    page = write_report(opened(settings), found)
    try_index(opened(settings), found.name.run_id)
    conclude(ReportResult(run_id=found.name.run_id, report=str(page)))
    out.print(f"report: {terminal.path_line(page)}")


@command("dataset", "split", "outputs", name="open")
def open_page(
    given: Given,
    which: Annotated[
        str | None,
        run_argument("RUN", "A run_id, a run date, latest or latest-passed: its report. The index if left out."),
    ] = None,
) -> None:
    """Open the index over all nights, or the report of a run, in the browser, and print where it is."""
    import webbrowser

    from mnist_pipeline.cli.results.images import OpenResult
    from mnist_pipeline.pipeline.reporting import written_page
    from mnist_pipeline.store.base import is_remote
    from mnist_pipeline.verdicts.finding import find_run

    settings = given.load()
    outputs = opened(settings)
    run = None if which is None else find_run(outputs, which, settings.dataset, settings.split)
    page = written_page(outputs, run)
    out.print(str(page))
    seen = not is_remote(page) and webbrowser.open(Path(page).as_uri())
    conclude(OpenResult(page=str(page), opened=seen))
    if is_remote(page):
        out.print("not opened: a browser needs the https address at which the bucket is served")
    elif not seen:
        out.print("not opened: no browser found here; open the file yourself")


@command("outputs")
def reindex(given: Given) -> None:
    """Rebuild history.parquet, runs.parquet, latest.json, all reports and their index from the published runs."""
    from mnist_pipeline.cli.results.work import ReindexResult
    from mnist_pipeline.index import update_index
    from mnist_pipeline.pipeline.reporting import write_report
    from mnist_pipeline.runs.lookup import list_runs
    from mnist_pipeline.views import update_views

    settings = given.load()
    if not list_runs(opened(settings)):
        raise RunNotFoundError(f"{settings.outputs}: expected published runs, got none; check the path")
    runs, bad = list_runs(opened(settings)), list[OutputsError]()
    try:
        update_views(opened(settings), afresh=True)
    except StoreError as error:
        bad.append(error)
    for found in runs:
        try:
            if not found.pruned():  # prune deletes the report too
                write_report(opened(settings), found)
        except OutputsError as error:  # one damaged run must not prevent the reports of the others
            bad.append(error)
    try:
        update_index(opened(settings), *(found.name.run_id for found in runs), afresh=True)
    except StoreError as error:
        bad.append(error)
    conclude(ReindexResult(runs=len(runs) - len(bad), problems=tuple(map(str, bad))))
    out.print(f"runs indexed: {len(runs) - len(bad)}")
    if bad:
        more = f" and {len(bad) - MAX_LISTED} more" if len(bad) > MAX_LISTED else ""
        raise type(bad[0])("; ".join(map(str, bad[:MAX_LISTED])) + more)
