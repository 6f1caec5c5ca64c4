"""The tensors of a dense network, checked and read-only. It reads no files."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core.network.activations import Activation
from mnist_pipeline.core.network.architecture import BOOK, Architecture, hidden_of, problems_with
from mnist_pipeline.errors import WeightsError


class Network(Mapping[str, NDArray[np.float32]]):
    """A dense network, read-only: `network["W1"]`, `network["b1"]` .. `network["bL"]`, like the book's dictionary.

    Args:
        tensors: `W1` `[784, n]`, `b1` `[n]`, `W2` `[n, m]` .. `bL` `[10]`, 1 to 8 layers and at most 4 million values:
            float32, every value finite. The network copies them.
        activation: of the hidden layers. If left out it is that of `tensors` if they are a network, and sigmoid for
            the shapes of the book, 784-50-100-10.

    Raises:
        WeightsError: a name, shape, dtype or value is not as expected; the message lists all problems. Or the
            activation is left out and not known: read with another one, a network is wrong without an error.
    """

    def __init__(self, tensors: Mapping[str, NDArray[Any]], activation: Activation | None = None) -> None:
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        if problems := [*problems_with(shapes), *_values(tensors)]:
            raise WeightsError(f"weights are not a dense network: {'; '.join(problems)}; give another weights file")
        if activation is None and isinstance(tensors, Network):
            activation = tensors.architecture.activation
        self.architecture: Architecture = _architecture(hidden_of(shapes), activation)
        self._tensors = {name: _frozen(tensors[name]) for name in self.architecture.shapes}
        flat = [*self._tensors.values()]
        self.layers = tuple(zip(flat[::2], flat[1::2], strict=True))  # [n, m] and [m] of each

    @classmethod
    def of(cls, tensors: Mapping[str, NDArray[Any]]) -> "Network":
        """These tensors as a network; the same if they are one, which was checked and is read-only.

        Raises:
            WeightsError: as the constructor.
        """
        return tensors if isinstance(tensors, Network) else cls(tensors)

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __eq__(self, other: object) -> bool:
        """Whether both are networks of one architecture with equal tensors; 0 equals -0."""
        if not isinstance(other, Network):
            return NotImplemented
        return self.architecture == other.architecture and all(np.array_equal(self[name], other[name]) for name in self)

    __hash__ = None  # type: ignore[assignment]  # a hash would have to read every weight, as equality does

    def __reduce__(self) -> tuple[type["Network"], tuple[dict[str, NDArray[np.float32]], Activation | None]]:
        # Calls the constructor, so that a copy is read-only too.
        return Network, (self._tensors, self.architecture.activation)

    def __repr__(self) -> str:
        return f"Network({self.architecture}, float32)"


def _frozen(tensor: NDArray[Any]) -> NDArray[np.float32]:
    copy = np.array(tensor, np.float32, order="C")
    copy.flags.writeable = False
    return copy


def _architecture(hidden: tuple[int, ...], activation: Activation | None) -> Architecture:
    if not hidden:
        return Architecture(hidden, None)
    if activation is None and hidden == BOOK.hidden:
        activation = BOOK.activation
    if activation is None:
        raise WeightsError(
            f"weights of {Architecture(hidden, None)}: expected the activation of the hidden layers, got none; say "
            "--activation sigmoid or --activation relu (in Python init_network(FILE, activation=...))"
        )
    return Architecture(hidden, activation)


def _values(tensors: Mapping[str, NDArray[Any]]) -> Iterator[str]:
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32:
            yield f"{name}: expected float32, got {tensor.dtype}"
        elif not np.isfinite(tensor).all():
            yield f"{name}: expected finite values, got {np.count_nonzero(~np.isfinite(tensor))} NaN or infinite"
