"""Published mixers to compare with, as their papers have them: `mamba2`, `gla`, `gated_deltanet`, `kda`,
`log_linear`."""

from glm_scale.mixers.baselines.gated_deltanet import read_gated_deltanet
from glm_scale.mixers.baselines.gla import read_gla
from glm_scale.mixers.baselines.kda import read_kda
from glm_scale.mixers.baselines.log_linear import read_log_linear
from glm_scale.mixers.baselines.mamba2 import read_mamba2

__all__ = ["read_gated_deltanet", "read_gla", "read_kda", "read_log_linear", "read_mamba2"]
