"""Nightly batch inference and evaluation of handwritten digits.

The public API: the book's `load_mnist`, `init_network` and `predict`, and `load_run`, `load_history`,
`load_images` and `run_files` for the published runs. Names are resolved on first use, so that importing the package
costs nothing.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mnist_pipeline.api import init_network, load_history, load_images, load_mnist, load_run, run_files
    from mnist_pipeline.core.network import predict

__all__ = ["init_network", "load_history", "load_images", "load_mnist", "load_run", "predict", "run_files"]

_HOMES = {
    "load_mnist": "api",
    "init_network": "api",
    "predict": "core.network",
    "load_run": "api",
    "load_history": "api",
    "load_images": "api",
    "run_files": "api",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
