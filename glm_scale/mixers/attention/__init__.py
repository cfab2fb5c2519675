"""`attention` and `local:w`: softmax attention, and how it is spelled, spread over ranks and drawn."""

from glm_scale.mixers.attention.spec import read_attention, read_local

__all__ = ["read_attention", "read_local"]
