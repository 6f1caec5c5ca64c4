"""Reads all layers into one `Settings`; the only reader of `config/` and of the environment."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mnist_pipeline.errors import SettingsError, nearest
from mnist_pipeline.settings.explaining import explain
from mnist_pipeline.settings.layers import ENVIRONMENT_PREFIX, Layer, merged, project_files, source_of
from mnist_pipeline.settings.model import COUNTED, Settings
from mnist_pipeline.store.base import is_remote

# The variables of Services and linked containers: their addresses, and what these consist of.
_SERVICE_ADDRESS = r"(.+_)?port(_[0-9]+_(tcp|udp|sctp))?"
_SERVICE = r"(.+_)?(service_host|service_port(_.+)?|port_[0-9]+_(tcp|udp|sctp)_(proto|port|addr))"


def load_settings(
    config: Path | None = None,
    configured: Mapping[str, Any] | None = None,
    flag_names: Mapping[str, str] | None = None,
    **flags: Any,
) -> Settings:
    """Read all layers into one `Settings`; weights do not inherit the activation of others that they replace.

    Args:
        config: a TOML file laid over the project's own; it may hold any subset of the keys.
        configured: what a deployment gives for `config` and the flags, if that is what they are compared with to tell
            what was given by hand; no flag, and the same `config`, if left out.
        flag_names: what a message calls the flags, by setting; an argument of that name if left out.
        flags: settings by field name; None means not given.

    Raises:
        SettingsError: a file cannot be read, a key or variable is unknown, or a value is out of range; it says which
            layer gave it.
    """
    settings = _build(config, flags, flag_names or {})
    if configured is None and any(flags.get(name) is not None for name in COUNTED):
        configured = {"config": config}
    if configured is not None:
        there = _configured(configured)
        # Both of the same date: what a template gives, typed by hand, is nothing else.
        settings._by_hand = settings._given_otherwise(there and there.on(settings.run_date))
    return settings


def _build(config: Path | None, flags: Mapping[str, Any], flag_names: Mapping[str, str]) -> Settings:
    if config is not None and is_remote(config):
        raise SettingsError("config: expected a file on disk, got an address; give its path")
    files = [Layer.of_file(path) for path in (*project_files(), *([config] if config else []))]
    given = {name: value for name, value in flags.items() if value is not None}
    layers = [*files, Layer.of_environment(_variables(os.environ)), Layer(given, flag_names)]
    values = merged(layers)
    if _weights_of_activation(layers) not in (None, _weights(layers)):
        values["activation"] = None  # it is of weights that a later layer replaces
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise SettingsError(explain(error, layers)) from None  # pydantic repeats the input, passwords included
    settings._sources = {name: source_of(layers, [name]) for name in ("dataset", "split", "activation")}
    if "cluster" in given and settings.runner != "dask":  # in config or environment it may be set for other runs
        raise SettingsError(
            f"cluster {settings.cluster}: expected runner dask, got {settings.runner}; say which is meant"
        )
    return settings


def _weights(layers: Sequence[Layer]) -> str | None:
    """The weights that these layers give together."""
    return next((str(layer.values["weights"]) for layer in reversed(layers) if "weights" in layer.values), None)


def _weights_of_activation(layers: Sequence[Layer]) -> str | None:
    """The weights that were given up to the layer whose activation wins; None if no weights or no activation was."""
    last = max((index for index, layer in enumerate(layers) if "activation" in layer.values), default=-1)
    return _weights(layers[: last + 1])


def _configured(parameters: Mapping[str, Any]) -> Settings | None:
    """The settings without what was given by hand; None if they are not valid without it."""
    config = parameters.get("config")
    flags = {name: value for name, value in parameters.items() if name in Settings.model_fields}
    try:
        return _build(Path(config) if config else None, flags, {})
    except SettingsError:
        return None


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of settings, in capitals or not, by setting; not those that are empty.

    Raises:
        SettingsError: one is of no setting.
    """
    found = {}
    for variable in sorted(environment):
        prefix, field = variable[: len(ENVIRONMENT_PREFIX)], variable[len(ENVIRONMENT_PREFIX) :].lower()
        if prefix.lower() != ENVIRONMENT_PREFIX.lower() or _is_of_a_service(field, environment[variable]):
            continue
        if field not in Settings.model_fields:
            near = nearest(field, Settings.model_fields)
            raise SettingsError(f"environment variable {variable}: no such setting{near}; unset it")
        if environment[variable]:
            found[field] = variable
    return found


def _is_of_a_service(field: str, value: str) -> bool:
    """Whether it is what Kubernetes and Docker tell of a Service, or a linked container, called `mnist-pipeline`."""
    return re.fullmatch(_SERVICE_ADDRESS if "://" in value else _SERVICE, field) is not None
