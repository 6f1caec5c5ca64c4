"""Imports matplotlib, whatever the environment and files of its settings say: only files are drawn here, no windows.

Jupyter sets MPLBACKEND to a module that programs started from it do not have, with which matplotlib does not import.
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from mnist_pipeline.errors import SettingsError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _imported() -> Any:
    try:
        return importlib.import_module("matplotlib")
    except ValueError:  # what a variable or a file says; without them it has its defaults
        for name in [each for each in sys.modules if each.partition(".")[0] == "matplotlib"]:
            del sys.modules[name]  # the half that was imported
    kept = {name: os.environ.pop(name) for name in ("MPLBACKEND", "MATPLOTLIBRC") if name in os.environ}
    os.environ["MATPLOTLIBRC"] = os.devnull
    try:
        return importlib.import_module("matplotlib")
    except ValueError as error:
        raise SettingsError(
            f"matplotlib: expected settings that it can read, got {error}; remove matplotlibrc from this folder"
        ) from error
    finally:
        del os.environ["MATPLOTLIBRC"]
        os.environ.update(kept)


matplotlib = _imported()


def new_figure(**options: Any) -> "Figure":
    """A figure that can be saved and not shown; `options` are those of matplotlib."""
    from matplotlib.figure import Figure

    return Figure(**options)
