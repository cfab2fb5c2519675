"""Accuracies that the paper gives (arXiv 2605.31367, Table 1), for their order alone.

Its lengths, alphabets, hops, windows and budgets are not known to us, so that digits cannot be compared.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import NamedTuple

__all__ = ["REMARK", "Published", "published"]

REMARK = (
    "of the paper's numbers (arXiv 2605.31367, Table 1) only the order of the structures is comparable: its lengths, "
    "alphabets, hops, windows and budgets are not known here"
)


class Published(NamedTuple):
    """Percent right of copy, associative recall and multi-hop."""

    copy: float
    recall: float
    multihop: float

    def of(self, task: str) -> float:
        """By the head word of a task's spelling."""
        return float(getattr(self, task))


_TABLE = MappingProxyType(
    {
        "attention": Published(100, 100, 39.21),
        "local": Published(23.75, 26.20, 23.59),
        "ssm": Published(42.98, 32.53, 27.17),
        "window": Published(74.66, 41.12, 39.08),
        "dense": Published(100, 99.99, 99.80),
        "offsets:2^k": Published(92.63, 49.03, 34.85),
        "lattice:2^k": Published(75.47, 52.59, 38.63),
        "offsets:k^2+1": Published(99.66, 53.61, 35.68),
        "lattice:k^2+1": Published(91.59, 54.56, 38.02),
    }
)


def published(mixer: str) -> Published | None:
    """The paper's line for a structure, whatever its window; None if it has none."""
    head, colon, _ = mixer.partition(":")
    return _TABLE.get(head if head in ("local", "window") and colon else mixer)
