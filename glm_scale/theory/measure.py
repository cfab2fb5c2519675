"""One line of the table of structures: what a structure costs per token, and how far and how freely it carries."""

from __future__ import annotations

import math
from dataclasses import dataclass

from glm_scale.mixers.structure import Structure
from glm_scale.theory.congestion import Congestion, congestion
from glm_scale.theory.paths import shortest_paths


@dataclass(frozen=True)
class Measurement:
    """Exact figures of one structure for documents of `length` rows and one head of `head_dim` keys and values.

    Reads are the earlier rows that a row reads through A and B; `cache_rows` the most a decoder ever holds; paths lead
    from the last row back to each earlier input and are inf where one of them is out of reach; FLOPs are forward ones,
    per token. `congestion` is None where the copied rows are out of reach.
    """

    structure: Structure
    length: int
    head_dim: int
    reads_mean: float
    reads_max: int
    cache_rows: int
    path_max: float
    path_mean: float
    flops_per_token: float
    congestion: Congestion | None

    def as_json(self) -> dict[str, object]:
        """Plain numbers for machines; null stands for an infinite path and for a missing congestion."""
        found = self.congestion
        return {
            "structure": str(self.structure),
            "length": self.length,
            "head_dim": self.head_dim,
            "reads_mean": self.reads_mean,
            "reads_max": self.reads_max,
            "cache_rows": self.cache_rows,
            "path_max": int(self.path_max) if math.isfinite(self.path_max) else None,
            "path_mean": self.path_mean if math.isfinite(self.path_mean) else None,
            "congestion": found and {"copy_length": found.length, "lower": found.lower, "found": found.found},
            "flops_per_token_per_head": self.flops_per_token,
        }


def measure(structure: Structure, length: int, head_dim: int, copy_length: int) -> Measurement:
    """Measures a structure at `length` ≥ 2 rows, its congestion on copies of `copy_length` rows."""
    reads = structure.reads(length)
    paths = shortest_paths(structure, length - 1)[1:]
    return Measurement(
        structure=structure,
        length=length,
        head_dim=head_dim,
        reads_mean=float(reads.mean()),
        reads_max=int(reads.max()),
        cache_rows=structure.cache_rows(length),
        path_max=float(paths.max()),
        path_mean=float(paths.mean()),
        flops_per_token=structure.flops_per_token(length, head_dim, head_dim),
        congestion=congestion(structure, copy_length),
    )
