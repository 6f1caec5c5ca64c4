"""Trains networks of several architectures by the recipe of `mnist-pipeline train`; prints a table as Markdown.

python -m benchmarks.networks

Training and forward pass take one core each, and are measured in seconds of the processor. All of it takes some ten
minutes; `--epochs 2` half a minute, with other accuracies.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.measure import machine
from mnist_pipeline.core.network import BOOK, Activation, Network, Workspace, forward
from mnist_pipeline.core.network.training import Recipe
from mnist_pipeline.core.progress import silent
from mnist_pipeline.pipeline.inputs import fetch
from mnist_pipeline.pipeline.training import TEST, TRAIN, fit_weights, score_weights
from mnist_pipeline.report.terminal import percent
from mnist_pipeline.runtime import kernels, one_blas_thread
from mnist_pipeline.settings import load_settings
from mnist_pipeline.weights.files import load_weights

ROWS = 60_000
BATCH_ROWS = 1000  # the default of a run
ROUNDS = 7
TRAINED: tuple[tuple[tuple[int, ...], Activation], ...] = (
    ((), "sigmoid"),
    ((30,), "sigmoid"),
    (BOOK.hidden, "sigmoid"),
    (BOOK.hidden, "relu"),
    ((200,), "sigmoid"),
    ((200,), "relu"),
    ((200, 100), "relu"),
    ((100,) * 7, "relu"),
    ((500, 300), "relu"),
)


def main() -> None:
    """Train each, score it on the test split, then time all in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--keep", type=Path, help="folder for weights and model cards, which are else deleted")
    arguments = parser.parse_args()
    one_blas_thread()
    recipes = [Recipe(epochs=arguments.epochs, hidden=hidden, activation=activation) for hidden, activation in TRAINED]
    with TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        trained = [_train(recipe, folder) for recipe in recipes]
        rates = _images_per_second([load_weights(_file(recipe, folder)) for recipe in recipes])
    print(f"{arguments.epochs} epochs, seed {Recipe.seed}, one core of {machine()['cpu']}:\n")
    print("| architecture | parameters | test accuracy | training, s | forward pass, images/s |")
    print("|---|---:|---:|---:|---:|")
    for recipe, (accuracy, seconds), rate in zip(recipes, trained, rates, strict=True):
        architecture = recipe.architecture
        print(f"| {architecture} | {architecture.parameters:,} | {percent(accuracy)} | {seconds:.0f} | {rate:,.0f} |")


def _file(recipe: Recipe, folder: Path) -> Path:
    return folder / f"{str(recipe.architecture).replace(' ', '-')}.safetensors"


def _train(recipe: Recipe, folder: Path) -> tuple[float | None, float]:
    """Accuracy on the test split, 0..1, and seconds of training."""
    train, test = (fetch(load_settings(dataset="mnist", split=split)) for split in (TRAIN, TEST))
    begun = time.process_time()
    fitted = fit_weights(train, recipe, folder, _file(recipe, folder), silent)
    seconds = time.process_time() - begun
    return score_weights(fitted, test).tally.accuracy, seconds


def _images_per_second(networks: list[Network]) -> list[float]:
    """The best of `ROUNDS` alternating forward passes over the same random images."""
    images = np.random.default_rng(0).integers(0, 256, (ROWS, 784)).astype(np.float32) / np.float32(255)
    out = np.empty((10, BATCH_ROWS), np.float32)
    workspaces = [Workspace(network, BATCH_ROWS, kernels()) for network in networks]
    seconds: list[list[float]] = [[] for _ in networks]
    for _ in range(ROUNDS):
        for workspace, measured in zip(workspaces, seconds, strict=True):
            begun = time.process_time()
            for start in range(0, ROWS, BATCH_ROWS):
                forward(workspace, images[start : start + BATCH_ROWS], out=out)
            measured.append(time.process_time() - begun)
    return [ROWS / min(measured) for measured in seconds]


if __name__ == "__main__":
    main()
