"""The flow mnist-training: fetch -> fit -> score. Defines the order of the steps; does no arithmetic."""

from typing import Annotated, Any

from pydantic import Field

from mnist_pipeline.core.network import Activation
from mnist_pipeline.core.network.architecture import MAX_LAYERS, MAX_PARAMETERS
from mnist_pipeline.core.network.training import Recipe
from mnist_pipeline.orchestration import tasks
from mnist_pipeline.orchestration.flow_runs import flow
from mnist_pipeline.pipeline.training import TEST, TRAIN, Trained
from mnist_pipeline.settings import AnyLocation, DatasetName, DatedLocation, LocalPath, PixelScale, load_settings

Epochs = Annotated[int, Field(ge=1, le=10_000)]
Seed = Annotated[int, Field(ge=0)]
Hidden = Annotated[tuple[Annotated[int, Field(ge=1, le=MAX_PARAMETERS)], ...], Field(max_length=MAX_LAYERS - 1)]


@flow(name="mnist-training", flow_run_name="train for {epochs} epochs, seed {seed}")
def train(
    dataset: DatasetName | None = None,
    epochs: Epochs = Recipe.epochs,
    seed: Seed = Recipe.seed,
    hidden: Hidden = Recipe.hidden,
    activation: Activation = Recipe.activation,
    target: LocalPath | None = None,
    data_dir: DatedLocation | None = None,
    pixel_scale: PixelScale | None = None,
    invert: bool | None = None,
    cache: LocalPath | None = None,
    outputs: AnyLocation | None = None,
    config: LocalPath | None = None,
) -> Trained:
    """Train a network on the train split, score it on the test split, write weights and model card.

    Args:
        dataset: data set to train on.
        epochs: passes over all images.
        seed: random seed of the initial weights, the order of the images and their shifts.
        hidden: width of each hidden layer, 0 to 7 of them; the network has at most 4 million parameters.
        activation: activation of the hidden layers, sigmoid or relu.
        target: the .safetensors file to write; named after its content in the outputs folder if left out.
        data_dir: folder with IDX files, on disk or in a bucket, asked before any other source; none if left out. It may
            have today's date in it: {run_date}, or {run_date:%Y/%m/%d}.
        pixel_scale: pixel value of full ink, 1 or 255; 255 for integers and 1 for floats if left out.
        invert: whether the images are black on white; no if left out.
        cache: folder of the verified source files; that of the worker's user if left out.
        outputs: folder of the weights if no target is given; that of the deployment if left out.
        config: TOML file laid over the project's own configuration; none if left out.
    """
    recipe = Recipe(epochs=epochs, seed=seed, hidden=hidden, activation=activation)
    given: dict[str, Any] = {
        "dataset": dataset,
        "data_dir": data_dir,
        "pixel_scale": pixel_scale,
        "invert": invert,
        "cache": cache,
        "outputs": outputs,
    }
    settings = {split: load_settings(config, split=split, **given) for split in (TRAIN, TEST)}
    source_images, unseen = (tasks.fetch(settings[split]) for split in (TRAIN, TEST))
    fitted = tasks.fit_weights(source_images, recipe, settings[TRAIN].outputs, target)
    return tasks.score_weights(fitted, unseen)
