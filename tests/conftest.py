"""What every test shares."""

from hypothesis import settings

from mnist_pipeline.orchestration.environment import prepare_environment

prepare_environment()  # before anything imports Prefect: no telemetry from tests either

# Two cores, and tests run side by side: how long one example takes says nothing.
settings.register_profile("shared-machine", deadline=None)
settings.load_profile("shared-machine")
