"""Settings that several kernel tests share."""

import dataclasses

import pytest

from glm_kernels.triton_backend import lifetime


@pytest.fixture
def short_segments(monkeypatch):
    """Segments of two chunks, so that a few dozen rows cross several of them."""
    made = lifetime.configuration

    def short(*shape):
        return dataclasses.replace(made(*shape), chunks=2)

    monkeypatch.setattr(lifetime, "configuration", short)
