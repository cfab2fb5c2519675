"""What ranks send one another of a structured recurrence, by strategy."""

from __future__ import annotations

from glm_kernels.kernel_interface import LARGEST_SLOTS
from glm_kernels.patterns import Dense, Offsets, Pattern
from glm_scale.parallel.sequence.costs import Spread, Traffic, heads_for_tokens, pipeline, waiting
from glm_scale.parallel.sequence.reach import spans_read
from glm_scale.parallel.sequence.recurrence import HEAD_GROUPS
from glm_scale.parallel.sequence.strategies import SequenceStrategy

_UNFUSED = 50.0
"""How many times longer it takes to sum up shards where there are no fused kernels for it."""


def recurrence_traffic(pattern: Pattern, strategy: SequenceStrategy, spread: Spread, key_dim: int) -> Traffic:
    """Of `parallel.sequence.recurrence`."""
    key, value, size, wide = key_dim, spread.head_dim, spread.itemsize, spread.sum_size
    others = spread.ranks - 1
    if strategy == "a2a":
        return heads_for_tokens(spread, [size * key, size * key, size * value, size, size * value])
    if isinstance(pattern, Dense | Offsets):
        return _rows_to_readers(pattern, spread, size * (key + value))
    slots = pattern.slot_count(spread.ranks * spread.length)
    if strategy == "ring":
        return pipeline(spread, size * slots * (key + value), min(HEAD_GROUPS, spread.heads))
    return Traffic(
        # Keys, then summaries; adjoint summaries, then gradients of keys.
        {"all_gather": spread.each(lambda rank: others * slots * (size * key + wide * (slots + value)))},
        {
            "all_gather": spread.each(lambda rank: others * slots * wide * value),
            "reduce_scatter": spread.each(lambda rank: others * slots * wide * key),
        },
        steps=4,
        # A map has a column for each slot, beside those of the values.
        idle=slots / (key + value) if slots <= LARGEST_SLOTS else _UNFUSED,
    )


def _rows_to_readers(pattern: Dense | Offsets, spread: Spread, row_bytes: int) -> Traffic:
    """Tokens straight to the later ranks that read them, and their gradients back; each rank waits for the one
    before."""
    read = [0] + [
        row_bytes * sum(end - first for first, end in spans_read(pattern, spread.length, distance))
        for distance in range(1, spread.ranks)
    ]
    return Traffic(
        {"send": spread.each(lambda rank: sum(read[: spread.ranks - rank]))},
        {"send": spread.each(lambda rank: sum(read[: rank + 1]))},
        **waiting(spread, max(read[:2]), min(HEAD_GROUPS, spread.heads)),
    )
