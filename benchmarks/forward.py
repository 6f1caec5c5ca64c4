"""Times the forward pass over images in memory: ours, plain in-place NumPy, torch and ONNX Runtime. Prints JSON.

Needs the peers' interpreter; `benchmarks.stages` starts it. Each worker has one thread; the workers are threads of one
process, and each takes a contiguous chunk of the images.
"""

import json
import sys
import time
from collections.abc import Callable
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
from mnist_pipeline.core.network import Network, Workspace, forward
from mnist_pipeline.runtime import one_blas_thread, tile_rows

BATCH_ROWS = 1000  # the default of a run
ROWS = 200_000
ROUNDS = 5
Pass = Callable[[NDArray[np.float32]], object]


def main(weights: Path) -> None:
    """Measure each in turn, `ROUNDS` times, with one worker and with two."""
    one_blas_thread()
    torch.set_num_threads(1)
    pixels = np.random.default_rng(0).integers(0, 256, (60_000, 784)).astype(np.float32) / np.float32(255)
    images = np.resize(pixels, (ROWS, 784))
    passes: dict[str, Callable[[], Pass]] = {
        "ours": lambda: _ours(weights, tile_rows()),
        "plain in-place NumPy": lambda: _ours(weights, None),
        "torch": lambda: _torch(weights),
        "ONNX Runtime": lambda: _onnx(weights),
    }
    seconds: dict[str, dict[int, list[float]]] = {name: {1: [], 2: []} for name in passes}
    for _ in range(ROUNDS):
        for workers in (1, 2):
            for name, make in passes.items():
                seconds[name][workers].append(_seconds(make, images, workers))
    microseconds = {
        name: {str(workers): min(runs) / ROWS * 1e6 for workers, runs in by_workers.items()}
        for name, by_workers in seconds.items()
    }
    print(json.dumps(microseconds))


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


def _ours(weights: Path, tiles: int | None) -> Pass:
    network, workspace = Network(load(weights)), Workspace(BATCH_ROWS, tiles)
    out = np.empty((10, BATCH_ROWS), np.float32)
    return lambda batch: forward(network, batch, workspace, out=out[:, : len(batch)])


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
