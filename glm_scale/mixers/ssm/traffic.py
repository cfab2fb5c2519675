"""What ranks send one another of an SSM, by strategy."""

from __future__ import annotations

from glm_scale.parallel.sequence.costs import Spread, Traffic, heads_for_tokens, pipeline
from glm_scale.parallel.sequence.strategies import SequenceStrategy


def ssm_traffic(strategy: SequenceStrategy, spread: Spread, key_dim: int) -> Traffic:
    """Of `parallel.sequence.ssm`, whose decays are fp32 at least."""
    value, size, wide = spread.head_dim, spread.itemsize, spread.sum_size
    if strategy == "a2a":
        return heads_for_tokens(spread, [size * key_dim, size * key_dim, size * value, 4, size * value])
    state, others = wide * key_dim * value, spread.ranks - 1
    if strategy == "ring":
        return pipeline(spread, state, 1)
    return Traffic(
        {"all_gather": spread.each(lambda rank: others * (state + wide))},
        {"all_gather": spread.each(lambda rank: others * state)},
        steps=2,
    )
