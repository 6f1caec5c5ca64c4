"""What a weights file of each format holds when it is good; the attacks are changes of these."""

import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from mnist_pipeline.core.network import BOOK
from mnist_pipeline.core.network.architecture import shapes_of

Arrays = Mapping[str, NDArray[Any]]

MEBIBYTE = 2**20
RANDOM = np.random.default_rng(1)
BOOK_ORDER = ["b2", "W1", "b1", "W2", "W3", "b3"]
ARRAYS = {name: RANDOM.normal(size=BOOK.shapes[name]).astype(np.float32) for name in BOOK_ORDER}


@dataclass(frozen=True)
class Attack:
    """A weights file, and a pattern for what is said when it is refused."""

    name: str
    suffix: str
    data: bytes
    refusal: str


def random_tensors(widths: tuple[int, ...], seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """The tensors of a dense network whose layers have these widths."""
    random = np.random.default_rng(seed)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes_of(widths).items()}


def npz(arrays: Arrays, compressed: bool = False) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


WRITERS: dict[str, Callable[[Arrays], bytes]] = {
    ".safetensors": lambda arrays: safetensors.numpy.save({n: np.ascontiguousarray(a) for n, a in arrays.items()}),
    ".npz": npz,
    ".pkl": lambda arrays: pickle.dumps(dict(arrays), 3),
}
VALID = {suffix: write(ARRAYS) for suffix, write in WRITERS.items()}

# What is structure, not numbers, is mostly at the beginning and the end, or before and after the small tensors.
SMALL_FIRST = {name: ARRAYS[name] for name in ["b1", "b3", "b2", "W3", "W2", "W1"]}
DOUBLES = {name: array.astype(np.float64) for name, array in SMALL_FIRST.items()}
SUBJECTS = [
    (".safetensors", WRITERS[".safetensors"](SMALL_FIRST)),
    (".npz", npz(SMALL_FIRST)),
    (".npz", npz(SMALL_FIRST, compressed=True)),
    *((".pkl", pickle.dumps(SMALL_FIRST, protocol)) for protocol in (2, 3, 4, 5)),
    (".safetensors", safetensors.numpy.save(SMALL_FIRST, {"activation": "relu"})),
    (".npz", npz(DOUBLES)),
    (".pkl", pickle.dumps(DOUBLES, 4)),
]
