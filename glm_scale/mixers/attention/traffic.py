"""What ranks send one another of attention, by strategy."""

from __future__ import annotations

from dataclasses import replace

from glm_scale.parallel.sequence.costs import Spread, Traffic, heads_for_tokens
from glm_scale.parallel.sequence.reach import first_in_window
from glm_scale.parallel.sequence.strategies import SequenceStrategy


def attention_traffic(
    window: int | None, strategy: SequenceStrategy, spread: Spread, key_dim: int, kv_heads: int
) -> Traffic:
    """Of `parallel.sequence.attention`."""
    row = key_dim + spread.head_dim
    if strategy == "a2a":
        sizes = [spread.itemsize * size for size in (key_dim, spread.head_dim)]
        shared = spread if kv_heads % spread.ranks else replace(spread, heads=kv_heads)
        return heads_for_tokens(spread, sizes) + heads_for_tokens(shared, sizes)
    # Tokens of the shard so many ranks before, from the nearest one on.
    rows = [
        spread.length - first_in_window(window, spread.length, distance) for distance in range(1, spread.ranks)
    ]  # fmt: skip
    handed = [spread.itemsize * row * sum(rows[: rank + 1]) * (rank + 1 < spread.ranks) for rank in range(spread.ranks)]
    home = [spread.sum_size * row * sum(rows[:rank]) for rank in range(spread.ranks)]
    return Traffic(
        {"send": spread.each(lambda rank: handed[rank])},
        {"send": spread.each(lambda rank: handed[rank] + home[rank])},
        # Gradients go home after the last step.
        steps=2 * sum(1 for count in rows if count) + 1,
    )
