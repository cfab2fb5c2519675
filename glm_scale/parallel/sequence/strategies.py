"""The ways to spread the tokens of a sequence over ranks, by name. Imports nothing of this project."""

from collections.abc import Iterable
from typing import Literal

SequenceStrategy = Literal["scan", "ring", "a2a"]
"""All-gather of boundary summaries, states at the boundary handed from rank to rank, all-to-all between sequence and
heads."""


def possible(strategies: Iterable[SequenceStrategy], heads: int, ranks: int) -> tuple[SequenceStrategy, ...]:
    """Those of them by which `heads` heads can be spread over `ranks` ranks: a2a gives each rank as many of them."""
    return tuple(strategy for strategy in strategies if strategy != "a2a" or heads % ranks == 0)
