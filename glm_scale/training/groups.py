"""Which parameters an optimizer steps alike: with one learning rate and one weight decay, and whether by Muon."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import nn

from glm_scale.errors import UserError
from glm_scale.layers.embedding import is_token_embedding
from glm_scale.layers.projection import is_hidden_projection
from glm_scale.model.parametrization import Scaling
from glm_scale.training.config import OptimizerConfig

__all__ = ["VECTOR", "GroupKey", "group_keys", "ordered", "parameter_groups"]

VECTOR = 8
"""Elements of the widest load, 16 bytes of bf16."""
_SHOWN = 4


class GroupKey(NamedTuple):
    """`hidden`: stepped by Muon. `rate`: a factor on the learning rate."""

    hidden: bool
    rate: float
    weight_decay: float


def group_keys(model: nn.Module, config: OptimizerConfig) -> dict[str, GroupKey]:
    """The group of every parameter, by its (first) name.

    Matrices decay, and nothing else: shrinking vectors (norm gains, biases, decay rates) changes what a layer computes
    rather than how smooth it is; and a row of an embedding table gets a gradient only when its token occurs, but decay
    at every step, so rare tokens would be pulled to zero. A table tied to the output head counts as an embedding.
    With Muon hidden matrices are the layers' projections; neither the output head, whose rows are tokens, nor
    convolutions. The model's parametrization and the rules of `config.groups` change rates and decays.

    Raises UserError for a rule that is of no parameter.
    """
    tables = {id(module.weight) for module in model.modules() if is_token_embedding(module)}
    matrices = {id(module.weight) for module in model.modules() if is_hidden_projection(module)}
    scaled: Mapping[str, Scaling] = getattr(model, "scalings", {})
    keys = {}
    for name, parameter in model.named_parameters():
        decays = parameter.ndim >= 2 and id(parameter) not in tables
        hidden = config.kind == "muon" and id(parameter) in matrices
        scaling = scaled.get(name, Scaling())
        rate = scaling.muon_rate if hidden else scaling.rate
        keys[name] = GroupKey(hidden, rate, config.weight_decay / rate if decays else 0.0)
    for number, rule in enumerate(config.groups):
        names = [name for name in keys if fnmatchcase(name, rule.match)]
        if not names:
            near = difflib.get_close_matches(rule.match, keys, n=_SHOWN, cutoff=0.0)
            raise UserError(
                f"training.optimizer.groups[{number}].match = {rule.match!r} is of none of the {len(keys)} parameters; "
                f"nearest are {', '.join(near)}"
            )
        for name in names:
            key = keys[name]
            decay = key.weight_decay if rule.weight_decay is None else rule.weight_decay
            keys[name] = GroupKey(key.hidden, key.rate * rule.rate, decay)
    return keys


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """The groups of an optimizer: parameters with `rate`, `weight_decay`, and `hidden` where Muon steps them.

    DeepSpeed lays the parameters of a group one behind the other. In this order each begins at a multiple of the
    largest power of two in its size, up to 16 bytes of bf16: kernels read them in vectors, and code that was compiled
    for one layer takes for granted that those of the others are aligned as its own are.
    """
    keys = group_keys(model, config)
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    named.sort(key=lambda pair: -math.gcd(pair[1].numel(), VECTOR))
    groups = {key: [p for name, p in named if keys[name] == key] for key in ordered(keys.values())}
    return [{"params": members, **key._asdict()} for key, members in groups.items() if members]


def ordered(keys: Iterable[GroupKey]) -> list[GroupKey]:
    """The different ones, in the order of an optimizer's groups: hidden matrices first, what does not decay last."""
    return sorted(set(keys), key=lambda key: (not key.hidden, -key.weight_decay, -key.rate))
