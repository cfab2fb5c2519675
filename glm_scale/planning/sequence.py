"""What sequence ranks send one another, and by which strategy the stages of a mixer are spread."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from glm_scale.model.block import Block
from glm_scale.parallel.sequence.costs import Sent, Spread, Traffic, tokens_before_traffic
from glm_scale.parallel.sequence.strategies import SequenceStrategy
from glm_scale.planning.exchanges import Exchange

__all__ = ["SpreadBlock", "spread_block"]


@dataclass(frozen=True)
class SpreadBlock:
    """What a block exchanges over its sequence ranks, and the strategies of its mixer's stages.

    boundary: bytes of earlier tokens' states that a rank gets and keeps for the backward pass, about; what it works out
    from them is as large as a few numbers of every token.
    """

    traffic: tuple[Traffic, ...]
    strategies: tuple[SequenceStrategy, ...]
    boundary: int

    @property
    def idle(self) -> float:
        """See `Traffic`."""
        return sum(traffic.idle for traffic in self.traffic)

    def exchanges(self, rank: int, recomputes: bool) -> Iterator[Exchange]:
        """Of one forward and one backward pass."""
        for traffic in self.traffic:
            passes = [traffic.forward_sent, traffic.backward_sent, *[traffic.forward_sent] * recomputes]
            for sent in passes:
                yield from _of_rank(sent, rank)


def spread_block(block: Block, spread: Spread, width: int, strategy: SequenceStrategy | None) -> SpreadBlock:
    """strategy: of all parts of the mixer; None: of each the cheapest. spread: of the heads of one rank."""
    traffic, strategies, boundary = [], [], 0
    if block.conv is not None:
        traffic.append(tokens_before_traffic(spread, (block.conv.width - 1) * width))
    for part in block.mixer.spread_parts():
        chosen, sent = part.choose_strategy(spread, strategy)
        traffic.append(sent)
        strategies.append(chosen)
        if chosen != "a2a":
            # What comes in is kept in the dtype of sums.
            wider = spread.sum_size // spread.itemsize if chosen == "ring" else 1
            boundary += wider * max(sent.forward)
    return SpreadBlock(tuple(traffic), tuple(strategies), boundary)


def _of_rank(sent: Sent, rank: int) -> Iterator[Exchange]:
    for collective, each in sent.items():
        yield Exchange("sequence", collective, each[rank])
