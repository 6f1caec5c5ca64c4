"""The console command: parse, call, print. Everything it does can be done from Python as well."""

import importlib.metadata
import logging
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from mnist_pipeline.core.progress import Progress
from mnist_pipeline.errors import DamagedError, PipelineError, RunNotFoundError, SettingsError

if TYPE_CHECKING:
    from mnist_pipeline.settings import Settings

EXIT_CODES = """Exit codes:

0  done

1  a bug of ours

2  a flag, variable or config file is wrong

3  the data or the weights are refused

4  no source of the data, or no Prefect server, could be reached

5  the outputs folder or a run is not as needed

6  the arithmetic gave NaN or infinity

130, 143  interrupted, terminated: nothing half-done is visible"""

out = Console(highlight=False, markup=False)
err = Console(stderr=True, highlight=False, markup=False)


class _Command(TyperGroup):
    """Turns errors of ours into one message and their exit code; with --debug the traceback comes first."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # the context class is typer's own
        # Terminated, leave as after Ctrl-C: staging is given up, and a server that Prefect started is stopped.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            return super().invoke(ctx)
        except PipelineError as error:
            if ctx.obj:
                traceback.print_exc()
            err.print(f"error: {error}", style="red", soft_wrap=True)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt:
            err.print("interrupted: nothing new is visible; the same command goes on from what is finished")
            raise typer.Exit(128 + signal.SIGINT) from None


app = typer.Typer(
    cls=_Command,
    help="Nightly batch inference and evaluation of handwritten digits.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Dataset = Annotated[str | None, typer.Option(help="Data set, as named in the config (mnist).", show_default=False)]
Split = Annotated[str | None, typer.Option(help="Split of the data set (test).", show_default=False)]
Weights = Annotated[
    Path | None,
    typer.Option(help="Weights: .safetensors, .npz or the book's .pkl (the shipped ones).", show_default=False),
]
RunDate = Annotated[
    str | None, typer.Option(help="UTC date the run stands for, YYYY-MM-DD (today).", show_default=False)
]
BatchRows = Annotated[int | None, typer.Option(help="Images per forward pass (as in the config).", show_default=False)]
ShardRows = Annotated[int | None, typer.Option(help="Images per Parquet file (as in the config).", show_default=False)]
Workers = Annotated[int | None, typer.Option(help="Threads at work at once (one a core).", show_default=False)]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder with IDX files, asked before any other source.", show_default=False)
]
Cache = Annotated[
    Path | None, typer.Option(help="Folder of the verified raw files (the user's cache).", show_default=False)
]
Outputs = Annotated[
    Path | None, typer.Option(help="Folder of shards, runs and history (outputs, here).", show_default=False)
]
Config = Annotated[Path | None, typer.Option(help="TOML file laid over the defaults.", show_default=False)]
Direct = Annotated[bool, typer.Option("--direct", help="Run the same stages in this process, without Prefect.")]
WhichRun = Annotated[str, typer.Argument(metavar="RUN", help="A run_id, a run date, or latest.")]


def _show_version(asked: bool) -> None:
    if asked:
        out.print(importlib.metadata.version("mnist-pipeline"))
        raise typer.Exit


@app.callback()
def _global(
    ctx: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug lines.")] = False,
    version: Annotated[  # noqa: ARG001  seen to by its callback
        bool,
        typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    ctx.obj = debug


@app.command()
def run(
    ctx: typer.Context,
    dataset: Dataset = None,
    split: Split = None,
    weights: Weights = None,
    run_date: RunDate = None,
    batch_rows: BatchRows = None,
    shard_rows: ShardRows = None,
    workers: Workers = None,
    data_dir: DataDir = None,
    cache: Cache = None,
    outputs: Outputs = None,
    config: Config = None,
    direct: Direct = False,
) -> None:
    """Evaluate a network on a data set and publish the run."""
    from mnist_pipeline.report import terminal

    given = {
        "dataset": dataset,
        "split": split,
        "weights": weights,
        "run_date": run_date,
        "batch_rows": batch_rows,
        "shard_rows": shard_rows,
        "workers": workers,
        "data_dir": data_dir,
        "cache": cache,
        "outputs": outputs,
    }
    settings = _settings(config, **given)
    settings.described_dataset()  # before any engine starts, so that a mistake costs no wait
    if direct:
        from mnist_pipeline import stages

        with _progress(ctx.obj) as progress:
            published = stages.evaluate(settings, progress)
    else:
        # The night is resolved here, once: what the environment or a config file say of it counts too.
        published = _run_flow("evaluate", ctx.obj, config=config, **given | {"run_date": settings.run_date})
    out.print()
    if published.new:
        out.print(f"published run {published.run_id}", style="bold", soft_wrap=True)
    else:
        out.print(f"run {published.run_id} was published before with the same predictions: nothing new", soft_wrap=True)
    out.print(terminal.accuracy_line(published.totals.correct, published.totals.labelled), soft_wrap=True)
    out.print(terminal.digits_table(published.scores))
    out.print(f"files: {terminal.path_line(published.folder)}", soft_wrap=True)


@app.command()
def backfill(
    ctx: typer.Context,
    first: Annotated[str, typer.Option("--from", help="First night, YYYY-MM-DD.")],
    last: Annotated[str, typer.Option("--to", help="Last night, YYYY-MM-DD.")],
    dataset: Dataset = None,
    split: Split = None,
    outputs: Outputs = None,
    config: Config = None,
    direct: Direct = False,
) -> None:
    """Evaluate the nights of a range that have no published run; published ones are left alone.

    Without --direct one run of the deployment mnist-evaluation/backfill is started for each missing night.
    """
    from mnist_pipeline.storage.runs import missing_nights

    given = {"dataset": dataset, "split": split, "outputs": outputs}
    start, settings = (_settings(config, run_date=night, **given) for night in (first, last))
    if start.run_date > settings.run_date:
        raise SettingsError(f"--from {first}: expected a night up to --to {last}, got a later one; swap the two")
    nights = missing_nights(settings.outputs, settings.dataset, settings.split, start.run_date, settings.run_date)
    if not nights:
        out.print("no night is missing: nothing to do")
    for night in nights:
        if direct:
            from mnist_pipeline import stages

            with _progress(ctx.obj) as progress:
                published = stages.evaluate(settings.model_copy(update={"run_date": night}), progress)
            out.print(f"published run {published.run_id}", soft_wrap=True)
        else:
            name = _start_backfill(settings, night)
            out.print(f"started: {name}", soft_wrap=True)


@app.command()
def train(
    ctx: typer.Context,
    dataset: Dataset = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over all images (120).", show_default=False)] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything random (1).", show_default=False)] = None,
    target: Annotated[
        Path | None,
        typer.Option(
            "--out", help="The .safetensors file to write (in outputs/weights, named by content).", show_default=False
        ),
    ] = None,
    data_dir: DataDir = None,
    cache: Cache = None,
    outputs: Outputs = None,
    config: Config = None,
    direct: Direct = False,
) -> None:
    """Train the network on the train split and write weights and model card."""
    from mnist_pipeline import trainer
    from mnist_pipeline.core.training import Recipe
    from mnist_pipeline.report import terminal

    given = {"dataset": dataset, "data_dir": data_dir, "cache": cache, "outputs": outputs}
    chosen = {name: value for name, value in {"epochs": epochs, "seed": seed}.items() if value is not None}
    settings = _settings(config, **given)
    trainer.check_target(target)
    if direct:
        with _progress(ctx.obj) as progress:
            trained = trainer.train(settings, Recipe(**chosen), target, progress)
    else:
        trained = _run_flow("train", ctx.obj, config=config, target=target, **chosen, **given)
    out.print()
    line = terminal.accuracy_line(trained.tally.correct, trained.tally.labelled)
    out.print(f"on the test split: {line}", soft_wrap=True)
    out.print(f"weights: {terminal.path_line(trained.path)}", soft_wrap=True)
    out.print(f"model card: {terminal.path_line(trained.card)}", soft_wrap=True)


@app.command()
def fetch(
    ctx: typer.Context,
    dataset: Dataset = None,
    split: Annotated[str | None, typer.Option(help="Split of the data set (all).", show_default=False)] = None,
    data_dir: DataDir = None,
    cache: Cache = None,
    config: Config = None,
) -> None:
    """Bring the raw files of a data set to the cache, or verify those that are there."""
    from mnist_pipeline import stages

    settings = _settings(config, dataset=dataset, data_dir=data_dir, cache=cache)
    for each in [split] if split else settings.described_dataset().splits:
        with _progress(ctx.obj) as progress:
            raw = stages.fetch(settings.model_copy(update={"split": each}), progress)
        for file in filter(None, (raw.images, raw.labels)):
            out.print(f"verified {file.path}  sha256 {file.sha256[:12]}...", soft_wrap=True)


@app.command()
def images(
    ctx: typer.Context,
    dataset: Dataset = None,
    split: Split = None,
    weights: Weights = None,
    start: Annotated[int, typer.Option(min=0, help="First image looked at.")] = 0,
    count: Annotated[int, typer.Option(min=1, max=400, help="Most images shown.")] = 10,
    wrong: Annotated[bool, typer.Option("--wrong", help="Only images the network gets wrong.")] = False,
    save: Annotated[Path | None, typer.Option(help="Save as .png, .svg or .pdf instead.", show_default=False)] = None,
    columns: Annotated[
        int | None, typer.Option(min=1, help="Images in a row (as many as fit).", show_default=False)
    ] = None,
    data_dir: DataDir = None,
    cache: Cache = None,
    config: Config = None,
) -> None:
    """Show a grid of digits with label and prediction."""
    from mnist_pipeline import gallery
    from mnist_pipeline.report import grid, terminal

    settings = _settings(config, dataset=dataset, split=split, weights=weights, data_dir=data_dir, cache=cache)
    with _progress(ctx.obj) as progress:
        shown = gallery.pick(settings, start, count, wrong, progress)
    if not shown:
        out.print("every image from there on is right" if wrong else "no images from there on")
        return
    pixels, captions = [picture.pixels for picture in shown], [picture.caption for picture in shown]
    if save is None:
        out.print(terminal.digits_grid(pixels, captions, columns or terminal.columns_that_fit(out.width)))
    else:
        title = f"{settings.dataset}/{settings.split}: #image_id, label -> prediction if another, confidence"
        grid.save_grid(save, title, pixels, captions, columns or min(len(shown), 10))
        out.print(f"saved to {save}: {len(shown)} of at most {count} images", soft_wrap=True)


@app.command("runs")
def list_published(outputs: Outputs = None, config: Config = None) -> None:
    """List the published runs."""
    from mnist_pipeline.report import terminal
    from mnist_pipeline.storage.runs import list_runs

    settings = _settings(config, outputs=outputs)
    rows = []
    for item in list_runs(settings.outputs):
        try:
            manifest = item.manifest()
        except DamagedError:
            rows.append((item.name.run_id, "damaged", "-", "-", "-"))
            continue
        totals, weights = manifest.totals, manifest.identity.weights_sha256
        when = f"{manifest.published_at:%Y-%m-%d %H:%M}"
        rows.append((item.name.run_id, f"{totals.images:,}", terminal.percent(totals.accuracy), weights[:8], when))
    rows.sort(key=lambda row: (row[0][:10], row[-1]))  # by run date, then by time of publication
    if rows:
        out.print(terminal.runs_table(rows))
    else:
        out.print(f"no runs in {settings.outputs} yet: publish one with `mnist-pipeline run`", soft_wrap=True)


@app.command()
def show(
    which: WhichRun = "latest",
    dataset: Dataset = None,
    split: Split = None,
    outputs: Outputs = None,
    config: Config = None,
) -> None:
    """Show the per-digit table of a published run."""
    from dataclasses import fields

    from mnist_pipeline.core.tally import DigitScore
    from mnist_pipeline.report import terminal
    from mnist_pipeline.storage import tables
    from mnist_pipeline.storage.runs import find_run

    settings = _settings(config, dataset=dataset, split=split, outputs=outputs)
    found = find_run(settings.outputs, which, settings.dataset, settings.split)
    summary = found.read(tables.SUMMARY).select([field.name for field in fields(DigitScore)])
    manifest = found.manifest()
    out.print(f"run {found.name.run_id}", style="bold", soft_wrap=True)
    out.print(terminal.accuracy_line(manifest.totals.correct, manifest.totals.labelled), soft_wrap=True)
    out.print(terminal.digits_table([DigitScore(**row) for row in summary.to_pylist()]))
    out.print(f"weights sha256 {manifest.identity.weights_sha256}", soft_wrap=True)
    out.print(f"files: {terminal.path_line(found.folder)}", soft_wrap=True)


@app.command()
def verify(
    which: Annotated[
        str | None, typer.Argument(metavar="RUN", help="A run_id, a run date, or latest; all runs if left out.")
    ] = None,
    dataset: Dataset = None,
    split: Split = None,
    outputs: Outputs = None,
    config: Config = None,
) -> None:
    """Check every byte of published runs against their manifests."""
    from mnist_pipeline.storage.runs import find_run, list_runs

    settings = _settings(config, dataset=dataset, split=split, outputs=outputs)
    if which is None:
        chosen = list_runs(settings.outputs)
    else:
        chosen = [find_run(settings.outputs, which, settings.dataset, settings.split)]
    if not chosen:
        raise RunNotFoundError(f"{settings.outputs}: expected published runs, got none; check the folder given")
    damaged = 0
    for item in chosen:
        problems = item.problems()
        damaged += bool(problems)
        out.print(f"{item.name.run_id}: {'damaged' if problems else 'verified'}", soft_wrap=True)
        for problem in problems:
            out.print(f"  {problem}", style="red", soft_wrap=True)
    if damaged:
        raise DamagedError(
            f"runs damaged: {damaged} of {len(chosen)}; move them out of {settings.outputs / 'runs'} "
            "and run their nights again with --run-date"
        )
    out.print(f"runs verified: {len(chosen)}")


def _settings(config: Path | None, **given: Any) -> "Settings":
    from mnist_pipeline.settings import load_settings

    return load_settings(config, **given)


@contextmanager
def _progress(debug: bool) -> Iterator[Progress]:
    """On a terminal bars, with warnings above them; in a log plain lines."""
    from mnist_pipeline.report.progress import bars, log_lines, through_console

    logger = logging.getLogger("mnist_pipeline")
    quiet = logging.WARNING if err.is_terminal else logging.INFO
    logger.setLevel(logging.DEBUG if debug else quiet)
    if err.is_terminal:
        logging.basicConfig(level=logging.WARNING, handlers=[through_console(err)], format="%(message)s")
        with bars(err) as progress:
            yield progress
    else:
        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
        yield log_lines(logger)


def _prepare_engine() -> None:
    """Import Prefect with our defaults, and make sure that the server in force answers."""
    from mnist_pipeline.orchestration.environment import prepare_environment

    prepare_environment()
    from mnist_pipeline.orchestration.server import require_server

    require_server()


def _start_backfill(settings: "Settings", night: date) -> str:
    _prepare_engine()
    from mnist_pipeline.orchestration.server import start_run

    parameters = {"dataset": settings.dataset, "split": settings.split, "run_date": str(night)}
    return start_run("mnist-evaluation/backfill", parameters)


def _run_flow(name: str, debug: bool, **parameters: Any) -> Any:
    """Load a flow as a Prefect worker would, by path, and run it here."""
    from mnist_pipeline.settings import project_folder

    _prepare_engine()
    from prefect.exceptions import TerminationSignal
    from prefect.flows import Flow, load_flow_from_entrypoint

    from mnist_pipeline.orchestration.terminal import share_terminal

    share_terminal(debug)
    flow: Flow[..., Any] = load_flow_from_entrypoint(f"{project_folder('flows') / name}.py:{name}")
    try:
        return flow(**parameters)
    except Exception as error:
        # While a flow runs, Prefect turns SIGTERM into an exception, which may surface as the cause of another.
        if any(isinstance(cause, TerminationSignal) for cause in _causes(error)):
            sys.exit(128 + signal.SIGTERM)
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
