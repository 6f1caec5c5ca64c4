"""The commands that say whether it is still good: compare, baseline, promote, report, reindex."""

from typing import TYPE_CHECKING, Annotated

import typer

from mnist_pipeline.cli.console import app, load, out, progress_for
from mnist_pipeline.cli.options import Cache, Config, DataDir, Dataset, Images, Outputs, Split, WhichRun
from mnist_pipeline.errors import DamagedError, RunNotFoundError, VerdictError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnist_pipeline.pipeline.judging import Judged, Verdict

baseline = typer.Typer(help="Pin the run that all later ones are held to.", no_args_is_help=True)
app.add_typer(baseline, name="baseline")


def print_verdict(verdict: "Verdict") -> None:
    """The outcome, each gate that did not pass, and what was compared with."""
    from mnist_pipeline.report import terminal

    for line in terminal.verdict_lines(verdict.outcome, verdict.results, verdict.references, verdict.notes):
        out.print(line, soft_wrap=True)


def require_accepted(nights: "Sequence[Judged]") -> None:
    """Raise VerdictError if the verdict on one of the runs fails it."""
    if rejected := [night for night in nights if not night.accepted]:
        raise VerdictError("; ".join(night.verdict.line for night in rejected) + "; what was published stays published")


@app.command()
def compare(
    before: Annotated[str, typer.Argument(metavar="A", help="The run before: run_id, date or latest.")],
    now: Annotated[str, typer.Argument(metavar="B", help="The run now: run_id, date or latest.")],
    dataset: Dataset = None,
    split: Split = None,
    outputs: Outputs = None,
    config: Config = None,
) -> None:
    """Compare two published runs: what was lost and gained, and how sure that is."""
    from mnist_pipeline.pipeline import judging
    from mnist_pipeline.report import terminal
    from mnist_pipeline.runs.lookup import find_run

    settings = load(config, dataset=dataset, split=split, outputs=outputs)
    old, new = (find_run(settings.outputs, which, settings.dataset, settings.split) for which in (before, now))
    found = judging.compare(old, new, "given")
    out.print(f"from {old.name.run_id}", soft_wrap=True)
    out.print(f"to   {new.name.run_id}", soft_wrap=True)
    out.print(terminal.changes_line(found), soft_wrap=True)
    if found.comparisons:
        out.print(terminal.comparison_table(judging.comparison_rows(found.comparisons)))
        method = found.comparisons[0].method
        out.print(f"p: two-sided, in brackets for ten digits (Holm). {method}", soft_wrap=True)


@baseline.command("set")
def set_pinned(
    which: WhichRun, dataset: Dataset = None, split: Split = None, outputs: Outputs = None, config: Config = None
) -> None:
    """Pin a run: from now on runs of its data set and split are compared with it too."""
    from mnist_pipeline.runs.lookup import find_run
    from mnist_pipeline.tables import PREDICTIONS
    from mnist_pipeline.verdicts.baselines import set_baseline

    settings = load(config, dataset=dataset, split=split, outputs=outputs)
    found = find_run(settings.outputs, which, settings.dataset, settings.split)
    found.paths(PREDICTIONS)  # refused if they were pruned: nothing could be compared with it
    name = found.name
    set_baseline(settings.outputs, name.dataset, name.split, name.run_id)
    out.print(f"baseline of {name.dataset}/{name.split}: {name.run_id}", soft_wrap=True)


@baseline.command("clear")
def clear_pinned(dataset: Dataset = None, split: Split = None, outputs: Outputs = None, config: Config = None) -> None:
    """Hold runs to no baseline any more."""
    from mnist_pipeline.verdicts.baselines import set_baseline

    settings = load(config, dataset=dataset, split=split, outputs=outputs)
    set_baseline(settings.outputs, settings.dataset, settings.split, None)
    out.print(f"baseline of {settings.dataset}/{settings.split}: none")


@baseline.command("show")
def show_pinned(outputs: Outputs = None, config: Config = None) -> None:
    """Show the pinned runs."""
    from mnist_pipeline.verdicts.baselines import read_baselines

    pinned = read_baselines(load(config, outputs=outputs).outputs)
    for name, run_id in pinned.items():
        out.print(f"{name}: {run_id}", soft_wrap=True)
    if not pinned:
        out.print("no baseline is set: pin one with `mnist-pipeline baseline set RUN`")


@app.command()
def promote(
    ctx: typer.Context,
    weights: Annotated[str, typer.Argument(metavar="WEIGHTS", help="The candidate: .safetensors, .npz or .pkl.")],
    force: Annotated[bool, typer.Option("--force", help="Whatever the verdict; the record will say so.")] = False,
    dataset: Dataset = None,
    split: Split = None,
    images: Images = None,
    data_dir: DataDir = None,
    cache: Cache = None,
    outputs: Outputs = None,
    config: Config = None,
) -> None:
    """Make weights the current ones, if they lose nothing against those of now; the nights use them from then on."""
    from mnist_pipeline.pipeline import promotion
    from mnist_pipeline.report import terminal

    given = {"images": images, "data_dir": data_dir, "cache": cache, "outputs": outputs}
    settings = load(config, dataset=dataset, split=split, weights=weights, **given)
    assert settings.weights is not None, "given"
    with progress_for(ctx.obj) as progress:
        promoted = promotion.promote(settings, settings.weights, force, progress)
    totals = promoted.judged.published.totals
    out.print()
    out.print(terminal.accuracy_line(totals.correct, totals.labelled), soft_wrap=True)
    print_verdict(promoted.judged.verdict)
    if promoted.record:
        out.print(f"promoted: {promoted.weights_sha256}", style="bold", soft_wrap=True)
        out.print(f"before: {promoted.previous_sha256}; record: {terminal.path_line(promoted.record)}", soft_wrap=True)
    elif promoted.weights_sha256 == promoted.previous_sha256:
        out.print("these are the current weights already: nothing to do")
    else:
        raise VerdictError(
            f"{promoted.judged.verdict.line}; not promoted, {promoted.previous_sha256} stays current; "
            "`--force` promotes it all the same"
        )


@app.command()
def report(
    which: WhichRun = "latest",
    dataset: Dataset = None,
    split: Split = None,
    outputs: Outputs = None,
    config: Config = None,
) -> None:
    """Write the report of a published run: one HTML file."""
    from mnist_pipeline.pipeline.reporting import write_report
    from mnist_pipeline.report import terminal
    from mnist_pipeline.runs.lookup import find_run

    settings = load(config, dataset=dataset, split=split, outputs=outputs)
    found = find_run(settings.outputs, which, settings.dataset, settings.split)
    out.print(f"report: {terminal.path_line(write_report(settings.outputs, found))}", soft_wrap=True)


@app.command()
def reindex(outputs: Outputs = None, config: Config = None) -> None:
    """Write history.parquet, runs.parquet, latest.json and all reports anew from what is published."""
    from mnist_pipeline.pipeline.reporting import write_report
    from mnist_pipeline.runs.lookup import list_runs
    from mnist_pipeline.views import update_views

    settings = load(config, outputs=outputs)
    if not settings.outputs.is_dir():
        raise RunNotFoundError(f"{settings.outputs}: expected published runs, got no folder; check the path")
    update_views(settings.outputs)
    runs, damaged = list_runs(settings.outputs), []
    for found in runs:
        try:
            if not found.pruned():  # which gives up the report too
                write_report(settings.outputs, found)
        except DamagedError as error:  # one run must not keep the others from their reports
            damaged.append(str(error))
    out.print(f"runs indexed: {len(runs) - len(damaged)}")
    if damaged:
        raise DamagedError("; ".join(damaged))
