"""Which family of kernels serves a pattern of the recurrence."""

from __future__ import annotations

from glm_kernels.kernel_interface import RecurrenceFamily
from glm_kernels.patterns import Dense, Lifetime, Offsets, Pattern
from glm_kernels.triton_backend.all_rows import launch as all_rows
from glm_kernels.triton_backend.chained import launch as chained
from glm_kernels.triton_backend.segmented import launch as segmented


def family_of(pattern: Pattern, reach: int) -> RecurrenceFamily:
    """The kernels for a pattern in documents of up to `reach` tokens.

    Few live tokens fit into one program, which then works on segments in parallel. More are read tile by tile by chains
    of programs, whose length is that of the sequence. What keeps every token live has kernels without slots.
    """
    if isinstance(pattern, Dense | Offsets):
        return all_rows
    assert isinstance(pattern, Lifetime)
    return segmented if segmented.preferred(pattern, _power_of_two(reach)) else chained


def _power_of_two(reach: int) -> int:
    """The least one that is not below `reach`: a compiler then makes a graph for each of them, and not for each T."""
    size = 1
    while size < reach:
        size *= 2
    return size
