"""Structures for the tests of the theory."""

from __future__ import annotations

from glm_scale.mixers import Structure, parse_mixer


def structure_of(spelling: str) -> Structure:
    """Of a mixer that has one."""
    found = parse_mixer(spelling).structure
    assert found is not None
    return found
