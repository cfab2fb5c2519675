"""Attention token by token: which rows it keeps, in the words of patterns."""

from __future__ import annotations

from functools import lru_cache

from glm_kernels.patterns import Pattern, parse_pattern
from glm_kernels.patterns.pattern import Window


@lru_cache(maxsize=64)
def rows_read(window: int | None) -> Pattern:
    """The pattern of the rows before a row that attention reads beside the row itself; a window counts that one, too.

    Row r of a document stands in slot r of a state, or with a window in slot r mod (window − 1).
    """
    return parse_pattern("dense") if window is None else Window(f"window:{window - 1}", window - 1)
