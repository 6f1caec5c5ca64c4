"""The layers of the settings: what config files and environment give, and what a message calls them."""

import functools
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_pipeline.errors import SettingsError
from mnist_pipeline.store.disk import read_small

ENVIRONMENT_PREFIX = "MNIST_PIPELINE_"
STRUCTURED = ("datasets", "gates", "retention")  # tables; JSON in a variable


def project_file(name: str) -> Path:
    """Locate `config` or `prefect.yaml`: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside, beside = package / name, package.parent / name
    return inside if inside.exists() else beside


def project_defaults() -> dict[str, Any]:
    """What `config/*.toml` says, by setting; nothing if one cannot be read, which `load_settings` reports."""
    try:
        return {name: value for path in project_files() for name, value in read_toml(path).items()}
    except SettingsError:
        return {}


@dataclass(frozen=True)
class Layer:
    """What one config file, the environment or the flags give; `names` are those of a message, by setting."""

    values: Mapping[str, Any]
    names: Mapping[str, str]

    @classmethod
    def of_file(cls, path: Path) -> "Layer":
        table = read_toml(path)
        return cls(table, dict.fromkeys(table, f"config file {path}"))

    @classmethod
    def of_environment(cls, variables: Mapping[str, str]) -> "Layer":
        return cls({field: _parsed(field, variable) for field, variable in variables.items()}, variables)

    def depth(self, keys: Sequence[int | str]) -> int:
        """How many of these keys, each below the one before, are in it."""
        inner: Any = self.values
        for depth, key in enumerate(keys):
            try:
                inner = inner[key]
            except (LookupError, TypeError):
                return depth
        return len(keys)


def _parsed(field: str, variable: str) -> Any:
    try:
        return json.loads(os.environ[variable]) if field in STRUCTURED else os.environ[variable]
    except (ValueError, RecursionError):
        raise SettingsError(f"environment variable {variable}: expected JSON; correct it") from None


def merged(layers: Sequence[Layer]) -> dict[str, Any]:
    """What all layers give together: a later one wins, key by key in tables too."""
    return functools.reduce(_merged, (layer.values for layer in layers), {})


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = {key for key, value in above.items() if isinstance(value, dict) and isinstance(below.get(key), dict)}
    return {**below, **above, **{key: _merged(below[key], above[key]) for key in both}}


def source_of(layers: Sequence[Layer], keys: Sequence[int | str]) -> str:
    """What a message calls the layer that gave a setting, or a key in it; empty if none did, or if it has no name."""
    depth, layer = max(((layer.depth(keys), index) for index, layer in enumerate(layers)), default=(0, 0))
    return layers[layer].names.get(str(keys[0]), "") if depth else ""  # a later layer wins


def comma_from(source: str) -> str:
    """The end of a message that names a layer; empty if it has no name."""
    return f", from {source}" if source else ""


def project_files() -> list[Path]:
    """The config files of the project, in the order in which later ones win."""
    return sorted(project_file("config").glob("*.toml"))


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a config file.

    Raises:
        SettingsError: it cannot be read.
    """
    try:
        return tomllib.loads(read_small(path))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"config file {path}: cannot be read ({error}); name another file") from error
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"config file {path}: not valid TOML ({error}); correct that line") from error
