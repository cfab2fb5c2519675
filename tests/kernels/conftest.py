"""Settings that several kernel tests share."""

import dataclasses

import pytest

from glm_kernels.triton_backend.segmented import launch


@pytest.fixture
def short_segments(monkeypatch):
    """Segments of two chunks, so that a few dozen rows cross several of them."""
    made = launch.configuration

    def short(*shape):
        return dataclasses.replace(made(*shape), chunks=2)

    monkeypatch.setattr(launch, "configuration", short)
