"""The architecture of a dense network of digits: the widths of its layers and the activation between them."""

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mnist_pipeline.core.images import DIGITS, PIXELS
from mnist_pipeline.core.network.activations import Activation
from mnist_pipeline.errors import SettingsError, listed, shown

MAX_LAYERS = 8
MAX_PARAMETERS = 4_000_000
_NAME = re.compile(r"[Wb]([1-9][0-9]{0,3})")


@dataclass(frozen=True)
class Architecture:
    """A dense network: 784 pixels, hidden layers with one activation, ten digits with softmax.

    Attributes:
        hidden: the width of each hidden layer.
        activation: of the hidden layers; None if there are none.
    """

    hidden: tuple[int, ...]
    activation: Activation | None

    @property
    def widths(self) -> tuple[int, ...]:
        """784, the width of each hidden layer, 10."""
        return (PIXELS, *self.hidden, DIGITS)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor by its name, in the order `W1`, `b1` .. `WL`, `bL`."""
        return shapes_of(self.widths)

    @property
    def parameters(self) -> int:
        """How many numbers the network consists of."""
        return _parameters(self.shapes)

    def check(self) -> None:
        """Raise SettingsError unless there may be such a network."""
        given = f"hidden layers {shown(','.join(map(str, self.hidden)))}: expected"
        if len(self.hidden) >= MAX_LAYERS or min(self.hidden, default=1) < 1:
            raise SettingsError(f"{given} 0 to {MAX_LAYERS - 1} widths, each of 1 or more; choose others")
        if self.parameters > MAX_PARAMETERS:
            raise SettingsError(
                f"{given} at most {MAX_PARAMETERS:,} parameters, got {self.parameters:,}; choose smaller layers"
            )

    def __str__(self) -> str:
        """As it is named everywhere: `784-50-100-10 sigmoid`."""
        return " ".join(filter(None, ["-".join(map(str, self.widths)), self.activation]))


def shapes_of(widths: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights and biases between layers of these widths."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (width, next_width) in enumerate(itertools.pairwise(widths), 1):
        shapes |= {f"W{layer}": (width, next_width), f"b{layer}": (next_width,)}
    return shapes


def problems_with(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Why tensors of these names and shapes are no dense network; nothing if they are one."""
    numbers = [int(match[1]) for name in shapes if (match := _NAME.fullmatch(str(name)))]
    if (layers := max(numbers, default=1)) > MAX_LAYERS:
        yield f"expected at most {MAX_LAYERS} layers, got {layers}"
        return
    expected = [f"{kind}{layer}" for layer in range(1, layers + 1) for kind in "Wb"]
    if missing := [name for name in expected if name not in shapes]:
        yield f"missing {', '.join(missing)}"
    if unknown := sorted(str(name) for name in shapes if name not in expected):
        yield f"unexpected {listed(unknown)}"
    width: int | None = PIXELS  # into the layer; None where the shape before says nothing
    for layer in range(1, layers + 1):
        weights, biases = shapes.get(f"W{layer}"), shapes.get(f"b{layer}")
        wanted = (width, DIGITS if layer == layers else None)
        if weights is not None and not _fits(weights, wanted):
            yield f"W{layer}: expected shape {_text(wanted)}, got {weights}"
        width = weights[1] if weights is not None and _fits(weights, wanted) else wanted[1]
        if biases is not None and not _fits(biases, (width,)):
            yield f"b{layer}: expected shape {_text((width,))}, got {biases}"
    if not missing and (count := _parameters({name: shapes[name] for name in expected})) > MAX_PARAMETERS:
        yield f"expected at most {MAX_PARAMETERS:,} parameters, got {count:,}"


def hidden_of(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The widths of the hidden layers of a network without `problems_with` its shapes."""
    return tuple(shapes[f"W{layer}"][1] for layer in range(1, len(shapes) // 2))


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    """Whether a shape is the wanted one, where None is any length but 0."""
    return len(shape) == len(wanted) and all(
        length > 0 and want in (None, length) for length, want in zip(shape, wanted, strict=True)
    )


def _text(wanted: tuple[int | None, ...]) -> str:
    return str(tuple("n" if want is None else want for want in wanted)).replace("'", "")


def _parameters(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


BOOK = Architecture((50, 100), "sigmoid")  # K. Saito, Deep Learning from Scratch, chapter 3
