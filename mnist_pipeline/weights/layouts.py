"""Which arrays are a dense network, and the line of Python that makes one of others: transposed, or named otherwise."""

import itertools
import math
import re
from collections.abc import Mapping

from mnist_pipeline.core.network.architecture import MAX_LAYERS, problems_with
from mnist_pipeline.errors import MAX_PATH, MAX_SHOWN, WeightsError, shown
from mnist_pipeline.weights.arrays import ADVICE, CONVERT, StoredArray

EXPECTED = "W1 (784, n), b1 (n,) .. WL (m, 10), bL (10,)"
MAX_FOUND = 6  # arrays in a message
MAX_PROBLEMS = 5
MAX_CHARACTERS = 200  # of a problem
OUT = "'dense.npz'"  # what the lines write
_OURS = re.compile("[Wb][1-9]")
_NUMBERS = re.compile(r"(>[fiu]|float|u?int)[0-9]+|bool")  # dtypes that NumPy can convert

# What gives the arrays of a file, by its suffix. Nobody is asked to unpickle anything: who has a pickle knows how.
_LOADING = {
    ".safetensors": "t = safetensors.numpy.load_file({}); ",
    ".npz": "t = numpy.load({}); ",
    ".pkl": "with t the dictionary, ",
}
_EVERY = "**{{'Wb'[i % 2] + str(i // 2 + 1): VALUE for i, v in enumerate(VALUES)}}"
_TORCH = _EVERY.replace("VALUES", "torch.load({}, 'cpu', weights_only=True).values()").replace("VALUE", "v.numpy().T")
_KERAS = _EVERY.replace("VALUES", "keras.models.load_model({}).get_weights()").replace("VALUE", "v")
_ONNX = "**{{i.name: onnx.numpy_helper.to_array(i) for i in onnx.load({}).graph.initializer}}"
_OTHERS = {
    **dict.fromkeys([".pt", ".pth", ".bin", ".ckpt"], _TORCH),
    **dict.fromkeys([".h5", ".hdf5", ".keras"], _KERAS),
    ".onnx": _ONNX,
}


def check(arrays: Mapping[str, StoredArray], suffix: str, name: str) -> None:
    """Check names, shapes and dtypes, before any value is read.

    Args:
        arrays: what the file declares.
        suffix: of its format.
        name: of the file, for the line that converts it.

    Raises:
        WeightsError: they are no dense network. The caller adds the name of the file to the message.
    """
    shapes = {each: stored.shape for each, stored in arrays.items()}
    problems = _cut(
        *problems_with(shapes),
        *(f"{each[:MAX_SHOWN]}: expected float32, got {a.dtype:.60}" for each, a in arrays.items() if not a.is_read),
    )
    if not problems:
        return
    if line := _line(arrays):
        loading = _LOADING[suffix].format(shown(name, MAX_PATH))
        advice = f"convert it, and say its --activation: {loading}numpy.savez({OUT}, {line})"
    elif "activation" in arrays:  # only the metadata of a safetensors file can say it
        advice = "leave 'activation' out of the file, and say it with --activation"
    elif any(len(shape) > 2 for shape in shapes.values()):
        advice = f"only dense layers are read, no convolutions; {ADVICE}"
    else:
        advice = ADVICE if all(stored.is_read for stored in arrays.values()) else CONVERT
    found = [f"{shown(each, 40)} {shape!s:.60}" for each, shape in itertools.islice(shapes.items(), MAX_FOUND)]
    if len(shapes) > MAX_FOUND:
        found.append(f"and {len(shapes) - MAX_FOUND} more")
    got = ", ".join(found) or "no arrays"
    if not any(map(_OURS.fullmatch, shapes)):
        raise WeightsError(f"expected {EXPECTED}, got {got}; {advice}")
    if any(each.startswith(("missing", "unexpected")) for each in problems):
        problems.append(f"found {got}")
    raise WeightsError(f"weights are not a dense network: {'; '.join(problems)}; {advice}")


def advice_of_suffix(suffix: str, name: str) -> str:
    """What to do with a file of another format, known by its suffix."""
    line = _OTHERS.get(suffix.lower())
    if line is None:
        return ADVICE
    return f"convert it, and say its --activation: numpy.savez({OUT}, {line.format(shown(name, MAX_PATH))})"


def _line(arrays: Mapping[str, StoredArray]) -> str | None:
    """The arguments of `numpy.savez` that make a dense network of arrays `t`; None if these cannot be one."""
    if not 1 <= len(arrays) // 2 <= MAX_LAYERS or max(map(len, arrays)) > MAX_SHOWN:
        return None
    if not all(stored.is_read or _NUMBERS.fullmatch(stored.dtype) for stored in arrays.values()):
        return None
    # The layers come in the order of the numbers in their names, or in that of the file.
    for order in (sorted(arrays, key=_by_numbers), list(arrays)):
        biases = [name for name in order if len(shape := arrays[name].shape) == 1 or (len(shape) == 2 and 1 in shape)]
        weights = [name for name in order if name not in biases]
        if len(weights) != len(biases):
            return None
        names = [each for layer in zip(weights, biases, strict=True) for each in layer]
        for transposed in (False, True):
            shapes: dict[str, tuple[int, ...]] = {}
            arguments = []
            for index, name in enumerate(names):
                shape, key = arrays[name].shape, f"{'Wb'[index % 2]}{index // 2 + 1}"
                if name in biases:
                    shapes[key], change = (math.prod(shape),), ".ravel()" * (len(shape) - 1)
                else:
                    shapes[key], change = shape[::-1] if transposed else shape, ".T" * transposed
                change += "" if arrays[name].is_read else ".astype('f4')"
                arguments.append(f"{key}=t[{name!r}]{change}")
            if not [*problems_with(shapes)]:
                return ", ".join(arguments)
    return None


def _by_numbers(name: str) -> list[str | int]:
    """A key that sorts `fc2` before `fc10`: texts and numbers by turns."""
    return [int(part) if index % 2 else part for index, part in enumerate(re.split("([0-9]+)", name))]


def _cut(*problems: str) -> list[str]:
    more = [f"and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
    return [f"{problem:.{MAX_CHARACTERS}}" for problem in problems[:MAX_PROBLEMS]] + more
