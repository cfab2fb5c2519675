"""How fast the operators are on this machine: `python -m glm_kernels.bench`. Needs torch, and triton on a GPU.

Every operator is first compared with exact results in float64; a wrong one is reported and not timed. All operators
and the attention kernels beside them are timed in one run, round after round, so that the printed ratios survive a
machine whose speed drifts.
"""

from glm_kernels.bench.command import main

__all__ = ["main"]
