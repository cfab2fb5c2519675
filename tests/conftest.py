"""Settings of all tests."""

from hypothesis import settings

# On a busy machine the time of a single example says nothing.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
