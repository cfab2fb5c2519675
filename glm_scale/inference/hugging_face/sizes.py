"""Sizes and mixers as exported models call them, and why some models cannot be exported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glm_kernels.patterns import Lattice, Offsets
from glm_scale.errors import UserError
from glm_scale.inference.hugging_face.patterns_glm_scale import terms
from glm_scale.mixers import parse_mixer
from glm_scale.model import ModelConfig

EXPORTED_MIXERS = ("attention", "local", "ssm", "window", "dense", "lattice", "offsets")
"""Head words of the mixers that `mixing_glm_scale.py` computes."""

_LONGEST = 1 << 16
"""Tokens up to which patterns are compared."""


def exported_config(model: ModelConfig) -> dict[str, Any]:
    """Sizes and mixers as `GlmScaleConfig` has them. Raises UserError for a mixer that exported models do not know."""
    for spelling in model.mixers:
        _check(spelling)
    return {
        "vocab_size": model.vocab_size,
        "hidden_size": model.width,
        "intermediate_size": model.mlp_size,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "head_dim": model.head_size,
        "mixers": list(model.mixers),
        "conv_width": model.conv_width,
        "rotary_base": model.rotary_base,
        "rms_norm_eps": model.norm_eps,
        "tie_word_embeddings": model.tie_embeddings,
    }


def own_config(exported: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `exported_config`: values of a ModelConfig. Raises KeyError for one that is missing."""
    return {
        "vocab_size": exported["vocab_size"],
        "width": exported["hidden_size"],
        "mlp_width": exported["intermediate_size"],
        "layers": exported["num_hidden_layers"],
        "heads": exported["num_attention_heads"],
        "head_dim": exported["head_dim"],
        "mixers": exported["mixers"],
        "conv_width": exported["conv_width"],
        "rotary_base": exported["rotary_base"],
        "norm_eps": exported["rms_norm_eps"],
        "tie_embeddings": exported["tie_word_embeddings"],
    }


def _check(spelling: str) -> None:
    for part in spelling.split(">"):
        word = part.strip().partition(":")[0]
        if word not in EXPORTED_MIXERS:
            raise UserError(
                f"mixer {spelling!r} cannot be exported for Hugging Face's transformers, which can have "
                f"{', '.join(EXPORTED_MIXERS)} and compositions of them; export without --format hf"
            )
    structure = parse_mixer(spelling).structure
    pattern = structure.pattern if structure else None
    if isinstance(pattern, Lattice | Offsets):
        growth = pattern.growth
        try:
            same = terms(growth.text, _LONGEST) == tuple(growth.terms(_LONGEST))
        except (ValueError, SyntaxError, ArithmeticError):
            same = False
        if not same:
            raise UserError(
                f"mixer {spelling!r}: f(k) = {growth.text} is not read alike by what is exported for Hugging Face's "
                "transformers; spell it otherwise, or export without --format hf"
            )
