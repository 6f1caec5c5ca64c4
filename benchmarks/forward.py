"""Times the forward pass over images in memory: ours, plain in-place NumPy, torch and ONNX Runtime. Prints JSON.

The network of the book in all of them, networks of other sizes in ours and in NumPy.

Needs the peers' interpreter; `benchmarks.stages` starts it. Each worker has one thread; the workers are threads of one
process, and each takes a contiguous chunk of the images.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.peers.network import load
from benchmarks.peers.torch_loader import model
from mnist_pipeline.core.network import BOOK, Architecture, Network, Workspace, forward
from mnist_pipeline.runtime import kernels, one_blas_thread

BATCH_ROWS = 1000  # the default of a run
ROWS = 200_000
ROUNDS = 7
OTHERS = (
    Architecture((), None),
    Architecture((30,), "sigmoid"),
    Architecture((200,), "relu"),
    Architecture((200, 100), "sigmoid"),
    Architecture((500, 300), "relu"),
)
Pass = Callable[[NDArray[np.float32]], object]


def main(weights: Path) -> None:
    """Measure each in turn, `ROUNDS` times, with one worker and with two."""
    one_blas_thread()
    torch.set_num_threads(1)
    pixels = np.random.default_rng(0).integers(0, 256, (60_000, 784)).astype(np.float32) / np.float32(255)
    images = np.resize(pixels, (ROWS, 784))
    book = Network(load(weights))
    measured = _measure(
        {
            "ours": lambda: _ours(book),
            "plain in-place NumPy": lambda: _plain(book),
            "torch": lambda: _torch(weights),
            "ONNX Runtime": lambda: _onnx(weights),
        },
        images,
        (1, 2),
    )
    others = {str(each): _measure(_both(_random(each)), images, (1,)) for each in OTHERS}
    print(json.dumps({str(BOOK): measured, **others}))


def _both(network: Network) -> dict[str, Callable[[], Pass]]:
    return {"ours": lambda: _ours(network), "plain in-place NumPy": lambda: _plain(network)}


def _measure(
    passes: Mapping[str, Callable[[], Pass]], images: NDArray[np.float32], workers: tuple[int, ...]
) -> dict[str, dict[str, float]]:
    """The best of `ROUNDS` alternating passes, in microseconds an image, by name and number of workers."""
    seconds: dict[str, dict[str, float]] = {name: {} for name in passes}
    for _ in range(ROUNDS):
        for number in workers:
            for name, make in passes.items():
                best = seconds[name].get(str(number), float("inf"))
                seconds[name][str(number)] = min(best, _seconds(make, images, number) / ROWS * 1e6)
    return seconds


def _random(architecture: Architecture) -> Network:
    random = np.random.default_rng(0)
    shapes = architecture.shapes.items()
    return Network(
        {name: random.normal(0, shape[0] ** -0.5, shape).astype(np.float32) for name, shape in shapes},
        architecture.activation,
    )


def _seconds(make: Callable[[], Pass], images: NDArray[np.float32], workers: int) -> float:
    chunks = np.array_split(images, workers)
    passes = [make() for _ in chunks]

    def work(worker: int) -> None:
        for start in range(0, len(chunks[worker]), BATCH_ROWS):
            passes[worker](chunks[worker][start : start + BATCH_ROWS])

    with ThreadPoolExecutor(workers) as pool:
        begun = time.perf_counter()
        list(pool.map(work, range(workers)))
        return time.perf_counter() - begun


def _ours(network: Network) -> Pass:
    workspace, out = Workspace(network, BATCH_ROWS, kernels()), np.empty((10, BATCH_ROWS), np.float32)
    return lambda batch: forward(workspace, batch, out=out[:, : len(batch)])


def _plain(network: Network) -> Pass:
    """As one writes it with `out=`, without a check."""
    buffers = [np.empty((BATCH_ROWS, width), np.float32) for width in network.architecture.widths[1:]]

    def once(batch: NDArray[np.float32]) -> object:
        x = batch
        for (weights, biases), buffer in zip(network.layers, buffers, strict=True):
            z = np.matmul(x, weights, out=buffer[: len(x)])
            z += biases
            if buffer is buffers[-1]:
                z -= z.max(axis=1, keepdims=True)
                np.exp(z, out=z)
                z /= z.sum(axis=1, keepdims=True)
            elif network.architecture.activation == "relu":
                np.maximum(z, 0, out=z)
            else:  # 1 / (1 + exp(-z))
                np.negative(z, out=z)
                np.exp(z, out=z)
                z += 1
                np.reciprocal(z, out=z)
            x = z
        return x

    return once


def _torch(weights: Path) -> Pass:
    network = model(weights)

    def once(batch: NDArray[np.float32]) -> object:
        with torch.inference_mode():
            return network(torch.from_numpy(batch))

    return once


def _onnx(weights: Path) -> Pass:
    tensors, nodes, name = load(weights), [], "x"
    for layer in (1, 2, 3):
        nodes.append(helper.make_node("Gemm", [name, f"W{layer}", f"b{layer}"], [f"a{layer}"]))
        nodes.append(helper.make_node("Sigmoid" if layer < 3 else "Softmax", [f"a{layer}"], [name := f"z{layer}"]))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 784])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(value, key) for key, value in tensors.items()],
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(built)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(built.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, {"x": batch})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
