"""The configuration of a GLM-scale model for `transformers`. Needs `transformers` only: exported models carry it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PretrainedConfig


class GlmScaleConfig(PretrainedConfig):
    """Sizes and token mixers of a GLM-scale model.

    `mixers` repeats through the depth: layer i has mixer i modulo the length of the list. A mixer is spelled
    `attention`, `local:w`, `ssm:N`, `window:w`, `dense`, `lattice:f` or `offsets:f` for a function f of k as `2^k`,
    or `A > B` for an attention A in front of a recurrence B. `conv_width`: tokens of the short convolution before a
    mixer, 0 for none. `num_key_value_heads`: of attention, None for as many as there are heads. `qk_norm`: whether
    queries and keys of attention and of recurrences are normalised.
    """

    model_type = "glm_scale"

    def __init__(
        self,
        vocab_size: int = 32000,
        hidden_size: int = 512,
        intermediate_size: int = 1408,
        num_hidden_layers: int = 4,
        num_attention_heads: int = 8,
        num_key_value_heads: int | None = None,
        qk_norm: bool = False,
        head_dim: int = 64,
        mixers: Sequence[str] = ("lattice:2^k",),
        conv_width: int = 0,
        rotary_base: float = 10000.0,
        rms_norm_eps: float = 1e-5,
        max_position_embeddings: int = 2048,
        use_cache: bool = True,
        tie_word_embeddings: bool = False,
        **others: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads or num_attention_heads
        self.qk_norm = qk_norm
        self.head_dim = head_dim
        self.mixers = list(mixers)
        self.conv_width = conv_width
        self.rotary_base = rotary_base
        self.rms_norm_eps = rms_norm_eps
        # No table has this size: it is the length that the model was trained on, which harnesses ask for.
        self.max_position_embeddings = max_position_embeddings
        self.use_cache = use_cache
        super().__init__(tie_word_embeddings=tie_word_embeddings, **others)
