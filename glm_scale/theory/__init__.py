"""What a token-mixing structure costs and can reach: reads, cache, FLOPs, shortest paths, congestion, pictures.

Everything follows from the sparsity of A and B in Y = (I − B)⁻¹ A X (arXiv 2605.31367), a mixer's `structure`. Knows no
model, and of mixers nothing else.
"""

from glm_scale.theory.congestion import Congestion, congestion
from glm_scale.theory.measure import Measurement, measure
from glm_scale.theory.paths import shortest_paths

__all__ = [
    "Congestion",
    "Measurement",
    "congestion",
    "measure",
    "shortest_paths",
]
