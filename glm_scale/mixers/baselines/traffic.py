"""What ranks send one another of recurrences with a matrix for a state, by strategy."""

from __future__ import annotations

from collections.abc import Sequence

from glm_scale.parallel.sequence.costs import Spread, Traffic, heads_for_tokens, pipeline
from glm_scale.parallel.sequence.strategies import SequenceStrategy

DECAY_BYTES = 4
"""Of a log decay, fp32 in every mixer."""


def linear_traffic(
    strategy: SequenceStrategy, spread: Spread, key_dim: int, gates: Sequence[int], map_numbers: int = 0
) -> Traffic:
    """Of `parallel.sequence.linear_attention`. gates: bytes of what the operator takes beside q, k, v for a token and
    head. map_numbers: of the matrix that a shard multiplies states with."""
    value, size, wide = spread.head_dim, spread.itemsize, spread.sum_size
    if strategy == "a2a":
        return heads_for_tokens(spread, [size * key_dim, size * key_dim, size * value, *gates, size * value])
    state, others = wide * key_dim * value, spread.ranks - 1
    if strategy == "ring":
        return pipeline(spread, state, 1)
    return Traffic(
        {"all_gather": spread.each(lambda rank: others * (state + wide * map_numbers))},
        {"all_gather": spread.each(lambda rank: others * state)},
        steps=2,
    )
