"""What every test shares."""

import pytest
from hypothesis import settings

from mnist_pipeline.orchestration.environment import prepare_environment

prepare_environment()  # before anything imports Prefect: no telemetry from tests either

# Two cores, and tests run side by side: how long one example takes says nothing.
settings.register_profile("shared-machine", deadline=None)
settings.load_profile("shared-machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that wait for servers start first, so that the others fill the time."""
    items.sort(key=lambda item: item.get_closest_marker("engine") is None)
