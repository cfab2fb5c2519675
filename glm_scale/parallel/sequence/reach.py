"""Which tokens of earlier shards a shard of a sequence reads: that follows from how far apart the two are.

Every shard has `length` consecutive tokens, counted here from its first. Documents can only make it fewer.
"""

from __future__ import annotations

from functools import lru_cache

from glm_kernels.patterns import Dense, Offsets

Spans = tuple[tuple[int, int], ...]
"""(first token, token after the last one), ascending, with tokens between them."""


@lru_cache(maxsize=4096)
def spans_read(pattern: Dense | Offsets, length: int, distance: int) -> Spans:
    """A shard's tokens that the shard `distance` ≥ 1 after it reads: two spans at most.

    Token i there reads token distance · length + i − f here: each f moves all tokens alike, so that together they cover
    a beginning of this shard, an end of it, or nothing.
    """
    if isinstance(pattern, Dense):
        return ((0, length),)
    moved = distance * length
    offsets = pattern.offsets(moved + length).tolist()
    end = moved + length - min((f for f in offsets if f >= moved), default=moved + length)
    first = moved - max((f for f in offsets if moved - length < f <= moved), default=moved - length)
    if first <= end:
        return ((0, length),)
    return tuple((a, b) for a, b in ((0, end), (first, length)) if a < b)


def first_in_window(window: int | None, length: int, distance: int) -> int:
    """The first of a shard's tokens to which tokens of the shard `distance` ≥ 0 after it attend; `length` if to none.

    window: as in `glm_kernels.attention`.
    """
    return 0 if window is None else min(max(distance * length - window + 1, 0), length)
