"""What a token-mixing structure costs and can reach: reads, cache, FLOPs, shortest paths, congestion, pictures.

Everything follows from the sparsity of A and B in Y = (I − B)^-1 A X (arXiv 2605.31367). Built on the patterns of
`glm_kernels` alone; knows no model and no mixer.
"""

from glm_scale.theory.congestion import Congestion, congestion
from glm_scale.theory.measure import Measurement, measure
from glm_scale.theory.paths import shortest_paths
from glm_scale.theory.structures import Structure, parse_structure

__all__ = [
    "Congestion",
    "Measurement",
    "Structure",
    "congestion",
    "measure",
    "parse_structure",
    "shortest_paths",
]
