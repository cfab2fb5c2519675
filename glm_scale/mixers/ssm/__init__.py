"""`ssm:N`: the first-order state-space model, and how it is spelled, spread over ranks and drawn."""

from glm_scale.mixers.ssm.spec import read_ssm

__all__ = ["read_ssm"]
