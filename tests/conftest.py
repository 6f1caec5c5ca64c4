"""What every test shares."""

from hypothesis import settings

# Two cores, and tests run side by side: how long one example takes says nothing.
settings.register_profile("shared-machine", deadline=None)
settings.load_profile("shared-machine")
