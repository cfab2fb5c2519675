"""How models that were exported for Hugging Face's transformers call their parameters, and where they keep ours."""

from __future__ import annotations

__all__ = ["MODEL_TYPE", "OWN_FOLDER", "SIZES_NAME", "exported_name", "own_name"]

MODEL_TYPE = "glm_scale"
"""What transformers calls models of ours."""

OWN_FOLDER = "glm_scale"
"""Where in an exported folder the run's configuration and the tokenizer lie as we have them."""

SIZES_NAME = "config.json"
"""Where transformers keeps sizes, and what kind of model it is."""

_MODULES = {"embedding": "model.embed_tokens", "blocks": "model.layers", "norm": "model.norm", "head": "lm_head"}


def exported_name(name: str) -> str:
    """Of a parameter of ours: `blocks.0.mixer.v.weight` is `model.layers.0.mixer.v.weight`."""
    module, rest = name.split(".", 1)
    return f"{_MODULES[module]}.{rest}" if module in _MODULES else name


def own_name(name: str) -> str:
    """The inverse of `exported_name`; what is none of its names stays as it is."""
    for own, exported in _MODULES.items():
        if name.startswith(f"{exported}."):
            return own + name[len(exported) :]
    return name
