"""Nightly batch inference and evaluation of handwritten digits.

The door for people: the book's `load_mnist`, `init_network` and `predict`, and `load_run`,
`load_history` and `run_files` for what the nightly evaluation published. Names are looked up on first use, so that
importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mnist_pipeline.analyst import load_history, load_run, run_files
    from mnist_pipeline.book import init_network, load_mnist
    from mnist_pipeline.core.network import predict

__all__ = ["init_network", "load_history", "load_mnist", "load_run", "predict", "run_files"]

_HOMES = {
    "load_mnist": "book",
    "init_network": "book",
    "predict": "core.network",
    "load_run": "analyst",
    "load_history": "analyst",
    "run_files": "analyst",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
