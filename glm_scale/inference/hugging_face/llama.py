"""Models shaped as Llama: their sizes and parameters in our words.

Theirs is our model with attention in every layer: RMSNorm, rotary embeddings in the half-split layout, SwiGLU, no
biases.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glm_scale.errors import UserError

__all__ = ["MODEL_TYPE", "llama_name", "llama_sizes"]

MODEL_TYPE = "llama"

_OUTER = {"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
_IN_LAYERS = {
    "mixer_norm": "input_layernorm",
    "mixer.stages.0.q": "self_attn.q_proj",
    "mixer.stages.0.k": "self_attn.k_proj",
    "mixer.v": "self_attn.v_proj",
    "mixer.o": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}


def llama_name(name: str) -> str | None:
    """What they call a parameter of ours; None for one that they have not."""
    module, _, kind = name.rpartition(".")
    if kind != "weight":
        return None
    if module in _OUTER:
        return f"{_OUTER[module]}.weight"
    blocks, _, rest = module.partition(".")
    number, _, inner = rest.partition(".")
    return f"model.layers.{number}.{_IN_LAYERS[inner]}.weight" if blocks == "blocks" and inner in _IN_LAYERS else None


def llama_sizes(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Values of a ModelConfig, from a config.json. Raises UserError, which begins with `where`, for what we lack."""
    rotary = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rotary.get("rope_type", rotary.get("type", "default"))
    wrong = {
        f"rotary embeddings scaled by {kind!r}": kind != "default",
        f"hidden_act {config.get('hidden_act')!r} instead of 'silu'": config.get("hidden_act", "silu") != "silu",
        "biases in attention": bool(config.get("attention_bias")),
        "biases in the MLP": bool(config.get("mlp_bias")),
    }
    if found := [what for what, there in wrong.items() if there]:
        raise UserError(f"{where} has {' and '.join(found)}, which our models have not; it cannot be imported")
    shared = config.get("num_key_value_heads")
    return {
        "vocab_size": config["vocab_size"],
        "width": config["hidden_size"],
        "mlp_width": config["intermediate_size"],
        "layers": config["num_hidden_layers"],
        "heads": config["num_attention_heads"],
        "kv_heads": None if shared in (None, config["num_attention_heads"]) else shared,
        "head_dim": config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
        "mixers": ["attention"],
        "conv_width": 0,
        "rotary_base": float(rotary.get("rope_theta") or config.get("rope_theta") or 10000.0),
        "norm_eps": config.get("rms_norm_eps", 1e-6),
        "tie_embeddings": bool(config.get("tie_word_embeddings", False)),
    }
