"""Keys of earlier versions that are now written in another way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glm_scale.renamed_keys import renamed

__all__ = ["rewritten"]

_HAD_SSM_STATE = frozenset({"ssm", "mamba2", "gla", "gated_deltanet", "log_linear"})


def rewritten(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A run's configuration as a tree, its keys as they are called now, without `model.ssm_state`: the one state
    expansion of all mixers that have any, which stands in their spellings now (`ssm:32`)."""
    values = renamed(values)
    model, ladder = values.get("model"), values.get("ladder")
    if not isinstance(model, Mapping) or "ssm_state" not in model:
        return values
    state = model["ssm_state"]
    model = {key: _with_state(value, state) if key == "mixers" else value for key, value in model.items()}
    del model["ssm_state"]
    if isinstance(ladder, Mapping) and "mixers" in ladder:
        ladder = {**ladder, "mixers": _with_state(ladder["mixers"], state)}
    return {**values, "model": model} | ({"ladder": ladder} if "ladder" in values else {})


def _with_state(mixers: Any, state: Any) -> Any:
    """A spelling, or lists of them."""
    if isinstance(mixers, list | tuple):
        return [_with_state(mixer, state) for mixer in mixers]
    if not isinstance(mixers, str):
        return mixers
    parts = [part.strip() for part in mixers.split(">")]
    return " > ".join(f"{part}:{state}" if part in _HAD_SSM_STATE else part for part in parts)
