"""The functions of the book's example: MNIST in memory, and a trained network."""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mnist_pipeline.core import images as transform
from mnist_pipeline.core.images import SIDE
from mnist_pipeline.core.network import Activation, Network
from mnist_pipeline.core.plan import RowRange
from mnist_pipeline.datasets.formats.idx import read_images, read_labels
from mnist_pipeline.errors import WeightsError, shown
from mnist_pipeline.pipeline.inputs import fetch
from mnist_pipeline.settings import load_settings
from mnist_pipeline.store.base import parse_location
from mnist_pipeline.weights.files import SHIPPED_WEIGHTS, load_weights

Pair = tuple[NDArray[Any], NDArray[Any]]


def load_mnist(
    normalize: bool = True,
    flatten: bool = True,
    one_hot_label: bool = False,
) -> tuple[Pair, Pair]:
    """Load MNIST into memory; fetch it on first use and verify it on every use.

    Args:
        normalize: pixels float32 in 0..1; otherwise uint8 in 0..255.
        flatten: images `[N, 784]`; otherwise `[N, 1, 28, 28]`.
        one_hot_label: labels `[N, 10]` float64 of 0.0 and 1.0; otherwise `[N]` uint8 in 0..9.

    Returns:
        `(x_train, t_train), (x_test, t_test)`: 60,000 and 10,000 images with their labels.

    Raises:
        SourceError: no source could deliver the files.
        DataError: a file does not match its checksum or format.
    """
    train, test = (_load_split(split, normalize, flatten, one_hot_label) for split in ("train", "test"))
    return train, test


def get_data() -> Pair:
    """The images and labels of the test split, like the book's `get_data`.

    Returns:
        `[10000, 784]` float32 in 0..1, and `[10000]` uint8 in 0..9.

    Raises:
        SourceError: no source could deliver the files.
        DataError: a file does not match its checksum or format.
    """
    return _load_split("test", normalize=True, flat=True, one_hot_label=False)


def init_network(weights: Path | str | None = None, activation: Activation | None = None) -> Network:
    """Load a trained network: `network["W1"]`, `network["b1"]` .. `network["bL"]`.

    Args:
        weights: a .safetensors, .npz or .pkl file, such as the book's `sample_weight.pkl`, or its address in an object
            store; float64 is rounded, with a warning. The weights shipped with this package if left out.
        activation: "sigmoid" or "relu", of the hidden layers. Needed only for a file that does not say it;
            784-50-100-10 is then the book's network, with sigmoid.

    Raises:
        WeightsError: the file is not exactly a dense network, says another activation, or none though one is needed;
            or an activation is given for the shipped weights, which is not theirs.
    """
    if weights is None:
        shipped = load_weights(SHIPPED_WEIGHTS)
        if activation not in (None, shipped.architecture.activation):
            raise WeightsError(
                f"activation {shown(activation)}: expected none without weights: those that ship with this package are "
                f"{shipped.architecture}; leave it out, or give a weights file"
            )
        return shipped
    try:
        location = parse_location(weights)
    except ValueError as error:
        raise WeightsError(f"weights: {error}") from None
    return load_weights(location, activation)


def _load_split(split: str, normalize: bool, flat: bool, one_hot_label: bool) -> Pair:
    source_images = fetch(load_settings(dataset="mnist", split=split))
    rows = RowRange(0, source_images.rows)
    images, labels = read_images(source_images, rows), read_labels(source_images, rows)
    assert labels is not None, "MNIST has labels"
    x: NDArray[Any] = transform.normalise(images) if normalize else images
    x = transform.flatten(x) if flat else x.reshape(-1, 1, SIDE, SIDE)
    return x, transform.one_hot(labels) if one_hot_label else labels
