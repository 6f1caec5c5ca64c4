"""The line that a message gives makes a network of the file; where no line can, the message has none."""

import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from mnist_pipeline.core.network import Network
from mnist_pipeline.errors import WeightsError
from mnist_pipeline.weights.files import load_weights
from tests.attacks.networks import WRITERS, Arrays, random_tensors

WIDTHS = (784, 12, 11, 11, 10)
DENSE = random_tensors(WIDTHS)
LAYERS = range(1, len(WIDTHS))


def torch(name: Callable[[int], str]) -> dict[str, Any]:
    """The arrays as PyTorch names and turns them."""
    named = {f"{name(layer)}.weight": np.ascontiguousarray(DENSE[f"W{layer}"].T) for layer in LAYERS}
    return named | {f"{name(layer)}.bias": DENSE[f"b{layer}"] for layer in LAYERS}


def named(weights: str, biases: str, start: int = 0) -> dict[str, Any]:
    """The arrays with other names, in which {} is the number of the layer."""
    names = {"W": weights, "b": biases}
    return {names[name[0]].format(int(name[1]) - 1 + start): array for name, array in DENSE.items()}


def message(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        load_weights(path, "relu")
    return str(caught.value)


def run_line(text: str, **names: Any) -> Network:
    """Run the line of a message, and load what it writes."""
    line = text.partition("convert it, and say its --activation: ")[2].removeprefix("with t the dictionary, ")
    assert line, text
    exec(line, {"numpy": np, "safetensors": safetensors} | names)
    return load_weights(Path("dense.npz"), "relu")


CONVERTIBLE: dict[str, dict[str, Any]] = {
    "PyTorch's attributes": torch(lambda layer: f"fc{layer}"),
    "PyTorch's sequence": torch(lambda layer: f"linear_relu_stack.{4 * layer - 4}"),
    "PyTorch's numbers alone": torch(lambda layer: f"{2 * layer - 2}"),
    "Keras": {name.replace("_0", ""): array for name, array in named("dense_{}/kernel:0", "dense_{}/bias:0").items()},
    "Keras later in a session": named("dense_{}/kernel:0", "dense_{}/bias:0", start=8),
    "a list": {f"arr_{index}": array for index, array in enumerate(DENSE.values())},
    "scikit-learn": named("coefs_{}", "intercepts_{}"),
    "numbers from zero": named("W{}", "b{}"),
    "lower case": {name.lower(): array for name, array in DENSE.items()},
    "transposed": {name: np.ascontiguousarray(array.T) for name, array in DENSE.items()},
    "biases in a row": {name: array[None] if name[0] == "b" else array for name, array in DENSE.items()},
    "biases in a column": {name: array[:, None] if name[0] == "b" else array for name, array in DENSE.items()},
    "names with quotes": {f'it\'s "{name}"': array for name, array in DENSE.items()},
}


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("kind", CONVERTIBLE)
def test_the_line_makes_the_network_of_another_layout(
    kind: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arrays, path = CONVERTIBLE[kind], Path(f"other{suffix}")
    path.write_bytes(WRITERS[suffix](arrays))
    text = message(path)
    assert text.isprintable()
    assert run_line(text, t=arrays) == Network(DENSE, "relu")


def test_names_without_numbers_are_taken_in_the_order_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arrays = torch(lambda layer: ["start", "middle", "deep", "last"][layer - 1])
    np.savez("other.npz", **arrays)
    assert run_line(message(Path("other.npz"))) == Network(DENSE, "relu")


@pytest.mark.parametrize("dtype", ["f2", ">f4", "i2"])
def test_the_line_converts_numbers_of_other_dtypes(dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arrays = {name: (array * 9).astype(dtype) for name, array in DENSE.items()}
    np.savez("other.npz", **arrays)  # type: ignore[arg-type]
    floats = {name: array.astype(np.float32) for name, array in arrays.items()}
    assert run_line(message(Path("other.npz"))) == Network(floats, "relu")


def test_files_of_other_libraries_get_the_line_by_their_suffix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tensors = {name: types.SimpleNamespace(numpy=lambda array=array.T: array) for name, array in DENSE.items()}
    torch = types.SimpleNamespace(load=lambda name, where, weights_only: {"x.pt": tensors}[name])
    model = types.SimpleNamespace(get_weights=lambda: list(DENSE.values()))
    keras = types.SimpleNamespace(models=types.SimpleNamespace(load_model=lambda name: {"x.h5": model}[name]))
    assert run_line(message(Path("x.pt")), torch=torch) == Network(DENSE, "relu")
    assert run_line(message(Path("x.h5")), keras=keras) == Network(DENSE, "relu")
    graph = types.SimpleNamespace(initializer=[types.SimpleNamespace(name=name) for name in DENSE])
    helper = types.SimpleNamespace(to_array=lambda initializer: DENSE[initializer.name])
    onnx = types.SimpleNamespace(load=lambda name: types.SimpleNamespace(graph=graph), numpy_helper=helper)
    assert run_line(message(Path("x.onnx")), onnx=onnx) == Network(DENSE, "relu")


@pytest.mark.parametrize("suffix", WRITERS)
def test_what_torch_saves_is_known_under_any_suffix(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"other{suffix}"
    path.write_bytes(b"PK\x03\x04" + bytes(26) + b"archive/data.pkl" + bytes(300))
    assert re.search(rf"expected a \{suffix} file, got one of torch\.save; .*torch\.load\('", message(path))


LAYER = np.zeros((10, 784), np.float32)
BIAS = np.zeros(10, np.float32)


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        (
            {"conv.weight": np.zeros((6, 1, 5, 5), np.float32), "fc.weight": LAYER, "fc.bias": BIAS},
            r"got 'conv.weight' \(6, 1, 5, 5\), .*; only dense layers are read, no convolutions; give another",
        ),
        ({"fc.weight": LAYER}, r"got 'fc.weight' \(10, 784\); give another"),
        (
            {"fc.weight": np.zeros((10, 785), np.float32), "fc.bias": BIAS},
            r"'fc.weight' \(10, 785\), .*; give another",
        ),
        ({"fc.weight": LAYER, "fc.bias": np.zeros(9, np.float32)}, r"'fc.bias' \(9,\); give another"),
        ({"fc.weight": LAYER, "fc.bias": BIAS, "bn.mean": BIAS}, r"'bn.mean' \(10,\); give another"),
        ({"x" * 61: LAYER, "b": BIAS}, r"'x{40}'\.\.\. \(10, 784\), 'b' \(10,\); give another"),
        ({"fc.weight": LAYER, "fc.bias": BIAS.astype("c8")}, "; save each array as array.astype"),
        ({"W1": np.zeros((785, 10), np.float32), "b1": BIAS}, r"W1: expected shape \(784, 10\), got \(785, 10\); give"),
        ({"W1": np.zeros((784, 11), np.float32), "b1": BIAS}, r"W1: expected shape \(784, 10\), got \(784, 11\); give"),
        (
            {"W1": LAYER.T, "b1": BIAS, "activation": np.array("relu")},
            "; leave 'activation' out of the file",
        ),
        ({f"W{n}": LAYER for n in (1, 9)}, "expected at most 8 layers, got 9; give another"),
        ({f"{n}.weight": LAYER for n in range(16)}, r"'5.weight' \(10, 784\), and 10 more; give another"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else None,
)
def test_where_no_line_converts_the_message_shows_what_was_found(arrays: Arrays, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    path.write_bytes(WRITERS[".npz"](arrays))
    assert re.search(expected, text := message(path)), text
