"""The options of the commands. Those of settings take name, type, help and default from the model and `config/`.

They are made when a command is parsed: the list of all commands needs no model. What a value may be is not checked
here: the model checks all layers alike.
"""

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import typer
from typer.core import TyperCommand

from mnist_pipeline.cli.console import app, opened
from mnist_pipeline.errors import SettingsError, shown, system_line
from mnist_pipeline.runs.layout import RUN_ID, RUNS
from mnist_pipeline.store.base import is_remote, local_path, parse_location

if TYPE_CHECKING:
    from mnist_pipeline.settings import Settings

FILES_ONLY = ("max_tasks", "datasets", "gates", "retention")  # settings that are no options: their place is a file

OF_IMAGES = (
    *("images", "data_dir", "labels", "image_column", "label_column", "id_column"),
    *("pixel_scale", "invert", "transpose", "cache"),
)

KEYWORD = inspect.Parameter.KEYWORD_ONLY


def path_option(*flags: str, about: str) -> Any:
    """An option that takes a path as it is given; the parser of typer takes an empty one for this folder."""
    return typer.Option(*flags, help=about, show_default=False, parser=_path, metavar="PATH", callback=_on_disk)


def run_argument(metavar: str, about: str) -> Any:
    """An argument that names a run; shells complete it."""
    return typer.Argument(metavar=metavar, help=about, autocompletion=complete_run)


def complete_run(ctx: typer.Context) -> list[str]:
    """The names of runs, the newest first, for a shell; none of a bucket, which would be asked over the network."""
    from mnist_pipeline.settings import load_settings

    with suppress(Exception):  # a shell has no use for what is wrong
        outputs = load_settings(ctx.params.get("config"), outputs=ctx.params.get("outputs")).outputs
        if isinstance(outputs, Path):
            names = [path.name for path in (outputs / RUNS).iterdir() if RUN_ID.fullmatch(path.name)]
            return ["latest", "latest-passed", *sorted(names, reverse=True)]
    return []


def complete_dataset(ctx: typer.Context) -> list[str]:
    """The names of the known data sets, for a shell."""
    from mnist_pipeline.settings import load_settings

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
        from mnist_pipeline.settings import PATHS

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

    def load(self, called: Mapping[str, str] | None = None, **more: Any) -> "Settings":
        """The settings of this call; pending repairs of its outputs are completed.

        Args:
            called: the words on the command line of settings that have another name there than their own.
            more: settings in place of options.
        """
        from mnist_pipeline.settings import load_settings
        from mnist_pipeline.views import complete_repairs

        given = self.flags | more
        names = {name: f"--{name.replace('_', '-')}" for name in given}
        settings = load_settings(self.config, flag_names=names | dict(called or {}), **given)
        complete_repairs(opened(settings))
        return settings


def command(
    *settings: str, of: typer.Typer = app, name: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a function to the commands, with an option for each of these settings, and --config.

    Args:
        settings: names of the settings; without any, all of a run. The function's parameter `given` gets their values.
        of: the group of the command.
        name: the command's own; that of the function if None.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def called(ctx: typer.Context, config: Path | None, **values: Any) -> None:
            function(given=Given(ctx.obj, config), **values)

        own = [each for each in inspect.signature(function).parameters.values() if each.name != "given"]
        parameters = [
            inspect.Parameter("ctx", KEYWORD, annotation=typer.Context),
            *(each.replace(kind=KEYWORD) for each in own),
            inspect.Parameter("config", KEYWORD, default=None, annotation=Config),
        ]
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by typer
        called.__annotations__ = {each.name: each.annotation for each in parameters}
        called.settings = settings  # type: ignore[attr-defined]  # read by its class
        of.command(name, cls=_SettingsCommand)(called)
        return function

    return decorate


class _SettingsCommand(TyperCommand):
    """A command with options of settings; what is given for them is no argument of its function, but `ctx.obj`."""

    @functools.cached_property
    def _options(self) -> list[Any]:
        return _options(self.callback.settings)  # type: ignore[union-attr]

    def get_params(self, ctx: Any) -> list[Any]:
        params = super().get_params(ctx)
        end = [each.name for each in params].index("config")
        return [*params[:end], *self._options, *params[end:]]

    def invoke(self, ctx: Any) -> Any:
        ctx.obj = {option.name: ctx.params.pop(option.name) for option in self._options}
        return super().invoke(ctx)


def _options(names: Sequence[str]) -> list[Any]:
    from mnist_pipeline.settings import Settings, project_defaults

    defaults = project_defaults()
    names = names or [name for name in Settings.model_fields if name not in FILES_ONLY]

    def taking(**_: Any) -> None: ...

    taking.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # read by typer
        [inspect.Parameter(name, KEYWORD, default=None, annotation=_option(name, defaults.get(name))) for name in names]
    )
    only = typer.Typer(add_completion=False)
    only.command()(taking)
    return list(typer.main.get_command(only).params)


def _option(name: str, default: Any) -> Any:
    from mnist_pipeline.settings import PATHS, Settings

    field = Settings.model_fields[name]
    kind = _kind(field.annotation)
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
