"""The options of the commands. Those of settings take name, type, help and default from the model and `config/`.

What a value may be is not checked here: the model checks all layers alike.
"""

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from mnist_pipeline.cli.console import opened
from mnist_pipeline.errors import SettingsError, shown, system_line
from mnist_pipeline.runs.layout import RUN_ID, RUNS
from mnist_pipeline.settings import PATHS, Settings, load_settings, project_defaults
from mnist_pipeline.store.base import is_remote, local_path, parse_location

# Every setting is an option of `run`, except those for which a config file is the place.
OF_A_RUN = tuple(name for name in Settings.model_fields if name not in ("max_tasks", "datasets", "gates", "retention"))

OF_IMAGES = (
    *("images", "data_dir", "labels", "image_column", "label_column", "id_column"),
    *("pixel_scale", "invert", "transpose", "cache"),
)

DEFAULTS = project_defaults()
KEYWORD = inspect.Parameter.KEYWORD_ONLY


def path_option(*flags: str, about: str) -> Any:
    """An option that takes a path as it is given; the parser of typer takes an empty one for this folder."""
    return typer.Option(*flags, help=about, show_default=False, parser=_path, metavar="PATH", callback=_on_disk)


def run_argument(metavar: str, about: str) -> Any:
    """An argument that names a run; shells complete it."""
    return typer.Argument(metavar=metavar, help=about, autocompletion=complete_run)


def complete_run(ctx: typer.Context) -> list[str]:
    """The names of runs, the newest first, for a shell; none of a bucket, which would be asked over the network."""
    with suppress(Exception):  # a shell has no use for what is wrong
        outputs = load_settings(ctx.params.get("config"), outputs=ctx.params.get("outputs")).outputs
        if isinstance(outputs, Path):
            names = [path.name for path in (outputs / RUNS).iterdir() if RUN_ID.fullmatch(path.name)]
            return ["latest", "latest-passed", *sorted(names, reverse=True)]
    return []


def complete_dataset(ctx: typer.Context) -> list[str]:
    """The names of the known data sets, for a shell."""
    with suppress(Exception):
        return sorted(load_settings(ctx.params.get("config")).datasets)
    return []


def _path(given: str | Path) -> Path:
    try:
        local_path(str(given))
    except ValueError as error:
        raise typer.BadParameter(f"{error}, got {shown(given)}") from error
    return Path(given)


def _on_disk(option: typer.CallbackParam, path: Path | None) -> Path | None:
    if path is not None and is_remote(path):  # not repeated: there may be a password in it
        raise SettingsError(f"{option.opts[0]}: expected a path on disk, got an address; give its path")
    return path


def _located(value: object) -> object:
    """A location as it is meant in this folder; what is none is for the settings to reject."""
    with suppress(ValueError):
        return parse_location(value)
    return value


Config = Annotated[Path | None, path_option(about="TOML file laid over the defaults.")]
Project = Annotated[Path, path_option(about="Folder with prefect.yaml (this one).")]
Direct = Annotated[bool, typer.Option("--direct", help="Run the same steps in this process, without Prefect.")]
WhichRun = Annotated[str, run_argument("RUN", "A run_id, a run date, latest or latest-passed.")]


@dataclass(frozen=True)
class Given:
    """What a command line says of the settings: a value for each option, None if it is left out, and --config."""

    flags: dict[str, Any]
    config: Path | None

    def in_folder(self, folder: Path) -> "Given":
        """The same as given, in a folder in which relative paths of config and environment are meant.

        Raises:
            SettingsError: there is no such folder.
        """
        if not os.path.isdir(folder):  # noqa: PTH112  also if it cannot be looked at
            raise SettingsError(f"--project {folder}: expected a folder, got none; correct its name")
        flags = {
            name: _located(value) if name in PATHS and value is not None else value
            for name, value in self.flags.items()
        }
        try:
            os.chdir(folder)
        except OSError as error:
            raise SettingsError(system_line(f"--project {folder}", error)) from error
        return Given(flags, self.config and self.config.expanduser().absolute())

    def load(self, called: Mapping[str, str] | None = None, **more: Any) -> Settings:
        """The settings of this call; pending repairs of its outputs are completed.

        Args:
            called: the words on the command line of settings that have another name there than their own.
            more: settings in place of options.
        """
        from mnist_pipeline.views import complete_repairs

        given = self.flags | more
        names = {name: f"--{name.replace('_', '-')}" for name in given}
        settings = load_settings(self.config, flag_names=names | dict(called or {}), **given)
        complete_repairs(opened(settings))
        return settings


def takes(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each of these settings, and --config. Its parameter `given` gets their values."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def called(**values: Any) -> None:
            config, flags = values.pop("config"), {name: values.pop(name) for name in names}
            command(given=Given(flags, config), **values)

        own = [each for each in inspect.signature(command).parameters.values() if each.name != "given"]
        options = {name: _option(name) for name in names} | {"config": Config}
        parameters = [each.replace(kind=KEYWORD) for each in own] + [
            inspect.Parameter(name, KEYWORD, default=None, annotation=option) for name, option in options.items()
        ]
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by typer
        called.__annotations__ = {each.name: each.annotation for each in parameters}
        return called

    return decorate


@functools.cache
def _option(name: str) -> Any:
    field = Settings.model_fields[name]
    kind, default = _kind(field.annotation), DEFAULTS.get(name)
    if isinstance(default, bool):
        default = "yes" if default else "no"
    shown = "" if default is None or is_remote(default) else f" ({default})"  # an address may hold a password
    flag, description = name.replace("_", "-"), field.description or name
    return Annotated[
        kind | None,
        typer.Option(
            *([f"--{flag}/--no-{flag}"] if kind is bool else []),
            help=f"{description[0].upper()}{description[1:]}{shown}.",
            show_default=False,
            metavar="PATH" if name in PATHS else None,
            rich_help_panel="Images" if name in OF_IMAGES else None,
            autocompletion=complete_dataset if name == "dataset" else None,
        ),
    ]


def _kind(annotation: Any) -> type:
    """The type that typer parses: bool or int; str for all that the model reads from text."""
    kinds = _types_in(annotation) - {type(None)}
    return next((kind for kind in (bool, int) if kinds == {kind}), str)


def _types_in(annotation: Any) -> set[Any]:
    inner = get_args(annotation)[:1] if get_origin(annotation) is Annotated else get_args(annotation)
    return set().union(*map(_types_in, inner)) if inner else {annotation}
