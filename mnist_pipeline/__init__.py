"""Nightly batch inference and evaluation of handwritten digits.

The public API: the book's `load_mnist`, `get_data`, `init_network`, `predict`, `sigmoid` and `softmax`; and for the
published runs `load_run`, `load_predictions`, `load_history`, `compare`, `load_images` and `run_files`. Names are
resolved on first use, so that importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mnist_pipeline.api import (
        Compared,
        compare,
        get_data,
        init_network,
        load_history,
        load_images,
        load_mnist,
        load_predictions,
        load_run,
        run_files,
    )
    from mnist_pipeline.core.network import predict, sigmoid, softmax

    __version__: str

__all__ = [
    "Compared",
    "compare",
    "get_data",
    "init_network",
    "load_history",
    "load_images",
    "load_mnist",
    "load_predictions",
    "load_run",
    "predict",
    "run_files",
    "sigmoid",
    "softmax",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("mnist-pipeline")
    if name in __all__:
        home = "core.network" if name in ("predict", "sigmoid", "softmax") else "api"
        return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__", *(name for name in globals() if name.startswith("__"))})
