"""Token mixers: a folder each, one contract, one registry. They know operators and layers, not the model."""

from glm_scale.mixers.contract import Look, Mixer, MixerDims, MixerError, MixerSpec
from glm_scale.mixers.registry import parse_hybrid, parse_mixer
from glm_scale.mixers.structure import Structure

__all__ = ["Look", "Mixer", "MixerDims", "MixerError", "MixerSpec", "Structure", "parse_hybrid", "parse_mixer"]
