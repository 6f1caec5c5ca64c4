"""The commands for data and weights: fetch, images, train."""

from pathlib import Path
from typing import Annotated

import typer

from mnist_pipeline.cli.console import app, out, progress_for
from mnist_pipeline.cli.engine import run_flow
from mnist_pipeline.cli.options import OF_IMAGES, Direct, Given, path_option, takes


@app.command()
@takes("dataset", "data_dir", "pixel_scale", "invert", "cache", "outputs")
def train(
    ctx: typer.Context,
    given: Given,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over all images (120).", show_default=False)] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything random (1).", show_default=False)] = None,
    target: Annotated[
        Path | None,
        path_option("--out", about="The .safetensors file to write (in outputs/weights, named by content)."),
    ] = None,
    direct: Direct = False,
) -> None:
    """Train the network on the train split and write weights and model card."""
    from mnist_pipeline.core.training import Recipe
    from mnist_pipeline.pipeline import training
    from mnist_pipeline.report import terminal
    from mnist_pipeline.store.probe import require_usable

    chosen = {name: value for name, value in {"epochs": epochs, "seed": seed}.items() if value is not None}
    settings = given.load()
    training.check_target(target)
    require_usable(target.absolute().parent if target else settings.outputs)
    if direct:
        with progress_for(ctx.obj) as progress:
            trained = training.train(settings, Recipe(**chosen), target, progress)
    else:
        trained = run_flow("train", ctx.obj, config=given.config, target=target, **chosen, **given.flags)
    out.print()
    line = terminal.accuracy_line(trained.tally.correct, trained.tally.labelled)
    out.print(f"on the test split: {line}", soft_wrap=True)
    out.print(f"weights: {terminal.path_line(trained.path)}", soft_wrap=True)
    out.print(f"model card: {terminal.path_line(trained.card)}", soft_wrap=True)
    out.print(
        f"next: `mnist-pipeline promote {terminal.path_line(trained.path)}` to use them every night", soft_wrap=True
    )


@app.command()
@takes("dataset", "data_dir", "cache")
def fetch(
    ctx: typer.Context,
    given: Given,
    split: Annotated[str | None, typer.Option(help="Split of the data set (all).", show_default=False)] = None,
) -> None:
    """Fetch the source files of a data set to the cache, and verify those already in it."""
    from mnist_pipeline.pipeline import inputs

    settings = given.load(split=split)
    for each in [split] if split else settings.described_dataset().splits:
        with progress_for(ctx.obj) as progress:
            source_images = inputs.fetch(settings.model_copy(update={"split": each}), progress)
        for file in filter(None, (source_images.images, source_images.labels)):
            out.print(f"verified {file.path}  sha256 {file.sha256[:12]}...", soft_wrap=True)


@app.command()
@takes("dataset", "split", "weights", *OF_IMAGES)
def images(
    ctx: typer.Context,
    given: Given,
    start: Annotated[int, typer.Option(min=0, help="First image to check.")] = 0,
    count: Annotated[int, typer.Option(min=1, max=400, help="Maximum number of images shown.")] = 10,
    wrong: Annotated[bool, typer.Option("--wrong", help="Only images the network gets wrong.")] = False,
    save: Annotated[Path | None, path_option("--save", about="Save as .png, .svg or .pdf instead.")] = None,
    columns: Annotated[
        int | None, typer.Option(min=1, help="Images in a row (as many as fit).", show_default=False)
    ] = None,
) -> None:
    """Show a grid of digits with label and prediction."""
    from mnist_pipeline.pipeline import examples
    from mnist_pipeline.report import grid, terminal

    settings = given.load()
    with progress_for(ctx.obj) as progress:
        shown = examples.pick(settings, start, count, wrong, progress)
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
