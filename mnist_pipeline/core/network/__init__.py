"""Dense networks of digits, their forward pass and their training, in plain NumPy."""

from mnist_pipeline.core.network.activations import Activation, sigmoid, softmax
from mnist_pipeline.core.network.architecture import BOOK, Architecture
from mnist_pipeline.core.network.forward import Kernels, Workspace, choose, forward, predict
from mnist_pipeline.core.network.tensors import Network

__all__ = [
    "BOOK",
    "Activation",
    "Architecture",
    "Kernels",
    "Network",
    "Workspace",
    "choose",
    "forward",
    "predict",
    "sigmoid",
    "softmax",
]
