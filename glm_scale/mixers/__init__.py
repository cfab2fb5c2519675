"""Token mixers: one file each, one contract, one registry. They know operators and layers, not the model."""

from glm_scale.mixers.contract import Mixer, MixerDims, MixerError, MixerSpec
from glm_scale.mixers.registry import parse_mixer

__all__ = ["Mixer", "MixerDims", "MixerError", "MixerSpec", "parse_mixer"]
