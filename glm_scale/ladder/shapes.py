"""Shapes of models with a given number of parameters, the same for every mixer as far as that is possible.

Depth and width grow together, a layer for every 64 numbers of width: the loss hardly depends on their ratio over an
order of magnitude (Kaplan et al. 2020, arXiv 2001.08361, section 3.2). What a mixer has more or fewer weights than
another one is made up for by the width of the MLP, so that all models of a size have the same number of weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from glm_scale.errors import UserError
from glm_scale.model import LanguageModel, ModelConfig
from glm_scale.scaling.differences import SAME_PARAMETERS

__all__ = ["Shape", "shape_for", "usual_parameters"]

_NUMBERS_PER_LAYER = 64
_NARROW = 512
"""Width below which heads have 32 numbers, lest there be but a few."""
_WIDEST = 65_536
_GRAINS = (64, 32, 16, 8, 4, 2, 1)
"""Multiples that the MLP's width may have: the coarser, the better for tensor cores."""


@dataclass(frozen=True)
class Shape:
    """Of a model with `parameters` outside its embedding and head."""

    layers: int
    width: int
    heads: int
    mlp_width: int
    parameters: int

    def overrides(self) -> dict[str, int]:
        """As keys of a run's configuration."""
        return {
            "model.layers": self.layers,
            "model.width": self.width,
            "model.heads": self.heads,
            "model.mlp_width": self.mlp_width,
        }


def shape_for(parameters: float, mixers: Sequence[str], model: Mapping[str, Any]) -> Shape:
    """The shape with so many parameters outside the embeddings, as nearly as whole numbers allow.

    model: the group `model` of a configuration; layers, width, heads or mlp_width that it has are taken as they are.
    Raises UserError if no MLP can make up for what is too much or too little.
    """
    width = model.get("width") or _width(parameters, model.get("layers"))
    layers = model.get("layers") or max(1, round(parameters / usual_parameters(1, width)))
    heads = model.get("heads") or max(1, width // (model.get("head_dim") or _head_size(width)))
    fixed = {**model, "layers": layers, "width": width, "heads": heads, "mixers": list(mixers)}
    if model.get("mlp_width"):
        return Shape(layers, width, heads, model["mlp_width"], _count(fixed))
    without = _count({**fixed, "mlp_width": 1}) - 3 * layers * width
    wanted = (parameters - without) / (3 * layers * width)
    if wanted >= 0.5:
        # The finest one is taken even where it is too coarse: in very small models.
        for grain in _GRAINS:
            units = max(1, round(wanted / grain)) * grain
            found = without + 3 * layers * width * units
            if grain == 1 or abs(found / parameters - 1) <= SAME_PARAMETERS / 2:
                return Shape(layers, width, heads, units, found)
    raise UserError(
        f"no MLP gives {'+'.join(mixers)} {parameters:.4g} parameters with {layers} layers of width {width}: all but "
        f"the MLP has {without:,}; take a larger size, or other model.layers and model.width"
    )


def usual_parameters(layers: int, width: int) -> float:
    """Outside the embeddings, of an attention and an MLP of the usual width in every layer."""
    return 12.0 * layers * width**2


def _width(parameters: float, layers: int | None) -> int:
    """The one whose layers, with an MLP of the usual width, come closest."""
    candidates = [32, 64, 96, *range(128, 1024, 64), *range(1024, _WIDEST + 1, 128)]

    def off(width: int) -> float:
        depth = layers or max(1, round(width / _NUMBERS_PER_LAYER))
        whole = usual_parameters(depth, width)
        return max(whole / parameters, parameters / whole)

    return min(candidates, key=off)


def _head_size(width: int) -> int:
    return 64 if width >= _NARROW else 32


def _count(model: Mapping[str, Any]) -> int:
    # Scaling changes no shape, and an MLP that is only being tried may be narrower than its base has whole units for.
    model = {key: value for key, value in model.items() if key not in ("parametrization", "base_width", "base_layers")}
    with torch.device("meta"):
        return LanguageModel(ModelConfig.model_validate(model)).parameter_count(embedding=False)
