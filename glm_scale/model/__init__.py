"""The language model: a stack of blocks around token mixers."""

from glm_scale.model.config import ModelConfig
from glm_scale.model.transformer import LanguageModel, ModelCache

__all__ = ["LanguageModel", "ModelCache", "ModelConfig"]
