"""The commands for data and weights: fetch, images, train."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mnist_pipeline.cli.console import opened, progress_for
from mnist_pipeline.cli.engine import run_flow
from mnist_pipeline.cli.options import OF_IMAGES, Direct, Given, command, path_option
from mnist_pipeline.cli.printing import conclude, err, out, print_table
from mnist_pipeline.errors import OutputsError, SettingsError, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnist_pipeline.pipeline.examples import Wanted
    from mnist_pipeline.report.picture import Picture

MAX_DRAWN = 400  # images
WIDTHS = r"[0-9]{1,9}(,[0-9]{1,9})*"


@command("dataset", "data_dir", "pixel_scale", "invert", "cache", "outputs")
def train(
    given: Given,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over all images (120).", show_default=False)] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything random (1).", show_default=False)] = None,
    hidden: Annotated[
        str | None,
        typer.Option(
            metavar="WIDTHS",
            help="Widths of the hidden layers, such as 200,100, or none (50,100).",
            show_default=False,
        ),
    ] = None,
    activation: Annotated[
        Literal["sigmoid", "relu"] | None,
        typer.Option(help="Activation of the hidden layers (sigmoid).", show_default=False),
    ] = None,
    target: Annotated[
        Path | None,
        path_option("--out", about="The .safetensors file to write (in outputs/weights, named by content)."),
    ] = None,
    direct: Direct = False,
) -> None:
    """Train a network on the train split and write weights and model card."""
    from mnist_pipeline.cli.results.work import TrainResult
    from mnist_pipeline.core.network.training import Recipe
    from mnist_pipeline.pipeline import training
    from mnist_pipeline.report import terminal
    from mnist_pipeline.store.probe import require_usable

    named = {"epochs": epochs, "seed": seed, "hidden": _widths(hidden), "activation": activation}
    chosen: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    recipe, settings = Recipe(**chosen), given.load()
    training.check_target(target)
    require_usable(target.absolute().parent if target else settings.outputs)
    if direct:
        with progress_for() as progress:
            trained = training.train(settings, recipe, target, progress)
    else:
        trained = run_flow("train", config=given.config, target=target, **chosen, **given.flags)
    tally = trained.tally
    result = TrainResult(
        weights=str(trained.path),
        model_card=str(trained.card),
        architecture=str(trained.architecture),
        parameters=trained.architecture.parameters,
        labelled=tally.labelled,
        correct=tally.correct,
        accuracy=tally.accuracy,
    )
    conclude(result)
    out.print()
    line = terminal.accuracy_line(tally.correct, tally.labelled, tally.images)
    out.print(f"on the test split: {line}")
    out.print(f"architecture: {result.architecture}, {result.parameters:,} parameters")
    out.print(f"weights: {terminal.path_line(trained.path)}")
    out.print(f"model card: {terminal.path_line(trained.card)}")
    out.print(f"next: `mnist-pipeline promote {terminal.path_line(trained.path)}` to use them every night")


def _widths(hidden: str | None) -> tuple[int, ...] | None:
    if hidden is None:
        return None
    if hidden == "none":
        return ()
    if not re.fullmatch(WIDTHS, hidden):
        raise SettingsError(
            f"--hidden {shown(hidden)}: expected the widths of the hidden layers with commas between them, such as "
            "200,100, or none; correct it"
        )
    return tuple(map(int, hidden.split(",")))


@command("dataset", "data_dir", "cache")
def fetch(
    given: Given,
    split: Annotated[str | None, typer.Option(help="Split of the data set (all).", show_default=False)] = None,
) -> None:
    """Fetch the source files of a data set to the cache, and verify those already in it."""
    from mnist_pipeline.cli.results.work import FetchResult, SourceFileFacts
    from mnist_pipeline.pipeline import inputs

    settings, files = given.load(split=split), list[SourceFileFacts]()
    for each in [split] if split else settings.described_dataset().splits:
        with progress_for() as progress:
            source_images = inputs.fetch(settings.model_copy(update={"split": each}), progress)
        for file in filter(None, (source_images.images, source_images.labels)):
            files.append(SourceFileFacts(path=str(file.location), sha256=file.sha256))
            out.print(f"verified {file.location}  sha256 {file.sha256[:12]}...")
    conclude(FetchResult(files=tuple(files)))


@command("dataset", "split", "weights", "activation", *OF_IMAGES, "outputs")
def images(
    given: Given,
    which: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            help="A run_id, a run date, latest or latest-passed: its images as it predicted them. Without it those of "
            "the data set, predicted now.",
        ),
    ] = None,
    wrong: Annotated[bool, typer.Option("--wrong", help="Only images with a wrong prediction.")] = False,
    changed: Annotated[
        bool, typer.Option("--changed", help="Only images of RUN whose prediction changed, the lost ones first.")
    ] = False,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="The run they changed against (the reference of RUN's verdict).", show_default=False
        ),
    ] = None,
    label: Annotated[
        int | None, typer.Option(min=0, max=9, help="Only images of this label.", show_default=False)
    ] = None,
    prediction: Annotated[
        int | None, typer.Option(min=0, max=9, help="Only images with this prediction.", show_default=False)
    ] = None,
    start: Annotated[int, typer.Option(min=0, help="First image to look at.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="Maximum number of images; at most 400 are drawn.")] = 10,
    save: Annotated[Path | None, path_option("--save", about="Save as .png, .svg or .pdf instead.")] = None,
    columns: Annotated[
        int | None, typer.Option(min=1, help="Images in a row (as many as fit).", show_default=False)
    ] = None,
) -> None:
    """Show images with label and prediction: which are wrong, or changed in a published run, and what they look like.

    Of a RUN it lists the most confident predictions first; on a terminal it draws them as well.
    """
    from mnist_pipeline.cli.results.images import ImagesResult, facts_of
    from mnist_pipeline.pipeline.examples import Wanted, pick
    from mnist_pipeline.report.picture import CAPTION

    wanted = Wanted(wrong, label, prediction, start)
    if which is not None:
        _images_of_run(given, which, wanted, count, changed, against, save, columns)
        return
    if changed or against is not None:
        raise SettingsError(
            "--changed and --against: expected a RUN, got none; name it: `mnist-pipeline images latest --changed`"
        )
    settings = given.load()
    with progress_for() as progress:
        shown = pick(settings, wanted, min(count, MAX_DRAWN), progress)
    conclude(
        ImagesResult(
            run_id=None,
            dataset=settings.dataset,
            split=settings.split,
            total=None,
            images=facts_of(shown),
            saved=str(save) if save and shown else None,
        )
    )
    if not shown:
        out.print(
            "every image from there on is right"
            if wanted == Wanted(True, start=start)
            else "no such images from there on"
        )
        return
    _draw(shown, f"{settings.dataset}/{settings.split}: {CAPTION}", save, columns)
    if save:
        out.print(f"saved to {save}: {len(shown)} of at most {count} images")


def _images_of_run(
    given: Given,
    which: str,
    wanted: "Wanted",
    count: int,
    changed: bool,
    against: str | None,
    save: Path | None,
    columns: int | None,
) -> None:
    from mnist_pipeline.cli.results.images import ImagesResult, facts_of
    from mnist_pipeline.pipeline.examples import select, select_changed, with_pixels
    from mnist_pipeline.report import terminal
    from mnist_pipeline.report.picture import CAPTION, CAPTION_OF_CHANGED
    from mnist_pipeline.verdicts.finding import find_run

    if unused := [name for name in ("weights", "activation", *OF_IMAGES) if given.flags[name] is not None]:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
        raise SettingsError(f"{flags}: expected none of these with a RUN, which has its own images; leave them out")
    settings = given.load()
    run = find_run(opened(settings), which, settings.dataset, settings.split)
    before = find_run(opened(settings), against, run.name.dataset, run.name.split) if against is not None else None
    changed = changed or before is not None
    selected = select_changed(run, wanted, count, before) if changed else select(run, wanted, count)
    pictures, saved = selected.pictures, False
    if pictures and (save or out.is_terminal):
        drawn = pictures[:MAX_DRAWN]
        try:
            drawn = with_pixels(run, drawn)
        except OutputsError as error:  # shards are a cache: what is known without them is listed all the same
            err.print(f"not drawn: {error}", style="red")
        else:
            title = f"{run.name.run_id}: {CAPTION_OF_CHANGED if changed else CAPTION}"
            _draw(drawn, title, save, columns)
            if saved := save is not None:
                out.print(f"saved to {save}: {len(drawn)} of {selected.total:,} images")
    conclude(
        ImagesResult(
            run_id=run.name.run_id,
            dataset=run.name.dataset,
            split=run.name.split,
            total=selected.total,
            images=facts_of(pictures),
            saved=str(save) if saved else None,
        )
    )
    if pictures:
        print_table(lambda _: terminal.images_table(pictures))
    more = f"; `--count {selected.total}` lists all" if len(pictures) < selected.total else ""
    found = f"{len(pictures):,} of {selected.total:,}" if pictures else "no"
    out.print(f"run {run.name.run_id}: {found} such images{more}")


def _draw(pictures: "Sequence[Picture]", title: str, save: Path | None, columns: int | None) -> None:
    """Draw pictures that have pixels in the terminal, or save them as a picture."""
    from mnist_pipeline.report import grid, terminal

    pixels = [picture.pixels for picture in pictures if picture.pixels is not None]
    captions = [picture.caption for picture in pictures]
    if save is None:
        out.print(terminal.digits_grid(pixels, captions, columns or terminal.columns_that_fit(out.width)))
    else:
        grid.save_grid(save, title, pixels, captions, columns or min(len(pictures), 10))
