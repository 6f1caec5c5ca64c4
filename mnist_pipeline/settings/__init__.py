"""Typed settings, and the only reader of `config/` and of the environment.

Later layers win: `config/*.toml` of the project, the --config file, environment variables MNIST_PIPELINE_*, flags.
Unknown keys are rejected in every layer.
"""

from mnist_pipeline.settings.layers import ENVIRONMENT_PREFIX, project_defaults, project_file
from mnist_pipeline.settings.loading import load_settings
from mnist_pipeline.settings.model import DATED, NETWORK, PATHS, RetentionSettings, Settings
from mnist_pipeline.settings.types import (
    CALENDAR_DATE,
    Activation,
    AnyLocation,
    ClusterAddress,
    ColumnName,
    DatasetName,
    DatedLocation,
    LocalPath,
    PixelScale,
    Rows,
    RunDate,
    Runner,
    SplitName,
    WaitMinutes,
    Workers,
    calendar_date,
)

__all__ = [
    "CALENDAR_DATE",
    "DATED",
    "ENVIRONMENT_PREFIX",
    "NETWORK",
    "PATHS",
    "Activation",
    "AnyLocation",
    "ClusterAddress",
    "ColumnName",
    "DatasetName",
    "DatedLocation",
    "LocalPath",
    "PixelScale",
    "RetentionSettings",
    "Rows",
    "RunDate",
    "Runner",
    "Settings",
    "SplitName",
    "WaitMinutes",
    "Workers",
    "calendar_date",
    "load_settings",
    "project_defaults",
    "project_file",
]
