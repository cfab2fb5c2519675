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


_NAMES = {
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "mlp_width": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "qk_norm": "qk_norm",
    "head_dim": "head_dim",
    "mixers": "mixers",
    "conv_width": "conv_width",
    "rotary_base": "rotary_base",
    "norm_eps": "rms_norm_eps",
    "tie_embeddings": "tie_word_embeddings",
}
"""What values of a ModelConfig are called in a `GlmScaleConfig`."""

_ADDED = {"kv_heads": None, "qk_norm": False}
"""Of models that were exported before there were these values."""


def exported_config(model: ModelConfig) -> dict[str, Any]:
    """Sizes and mixers as `GlmScaleConfig` has them. Raises UserError for a mixer that exported models do not know."""
    for spelling in model.mixers:
        _check(spelling)
    values = model.model_dump() | {
        "kv_heads": model.kv_heads or model.heads,
        "mlp_width": model.mlp_size, "head_dim": model.head_size, "mixers": list(model.mixers),
    }  # fmt: skip
    return {exported: values[own] for own, exported in _NAMES.items()}


def own_config(exported: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `exported_config`: values of a ModelConfig. Raises KeyError for one that is missing."""
    values = {own: exported[name] for own, name in _NAMES.items() if name in exported or own not in _ADDED}
    if values.get("kv_heads") == values["heads"]:
        values["kv_heads"] = None
    return _ADDED | values


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
