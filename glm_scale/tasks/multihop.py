"""`multihop:h`: following a chain of links h times without saying what lies between."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from glm_scale.tasks.task import SEPARATOR, Task, TaskError, distinct, whole_number

__all__ = ["MultiHop", "read_multihop"]

_MOST_HOPS = 12
"""Beyond, 16 nodes have no 4 from which so many hops lead on."""


@dataclass(frozen=True)
class MultiHop(Task):
    """The links (a, b) of a chain of distinct nodes, shuffled; then queries: a node and the node h hops on, asked.

    A separator stands before the queries, of which no two begin at the same node. h = 1 is recall. Nodes in between
    are not shown, so that all hops have to be made within the layers. Named after the multi-hop recall of arXiv
    2605.31367, Table 1, whose sizes are not known to us: these are ours.

    A longer sequence has a longer chain and more queries; once the chain has all nodes of the alphabet, more queries
    alone.
    """

    hops: int
    nodes: int = 16
    queries: int = 4
    choices = 48

    @property
    def name(self) -> str:
        return f"multihop:{self.hops}"

    @property
    def vocabulary(self) -> int:
        return 1 + self.choices

    def _sequences(self, generator: torch.Generator, size: int, times: int) -> tuple[Tensor, Tensor]:
        nodes = min(times * self.nodes, self.choices)
        queries = times * self.queries + times * self.nodes - nodes
        chain = 1 + distinct(generator, size, nodes, self.choices)
        links = torch.stack([chain[:, :-1], chain[:, 1:]], 2)
        order = distinct(generator, size, nodes - 1, nodes - 1)
        links = links.gather(1, order[:, :, None].expand(-1, -1, 2))
        begins = distinct(generator, size, queries, nodes - self.hops)
        asked = torch.stack([chain.gather(1, begins), chain.gather(1, begins + self.hops)], 2)
        separator = torch.full((size, 1), SEPARATOR)
        sequences = torch.cat([links.flatten(1), separator, asked.flatten(1)], 1)
        answers = torch.zeros_like(sequences, dtype=torch.bool)
        answers[:, 2 * nodes :: 2] = True
        return sequences, answers


def read_multihop(spelling: str, argument: str | None) -> MultiHop:
    """`multihop:h` of h hops."""
    if (hops := whole_number(argument, _MOST_HOPS)) is None:
        raise TaskError(
            f"task {spelling!r}: multihop needs its hops, a whole number from 1 to {_MOST_HOPS}, as in multihop:2"
        )
    return MultiHop(hops)
