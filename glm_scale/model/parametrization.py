"""How initial weights and learning rates follow from the size of a model.

`standard`: one learning rate, and the standard deviations of `model.init`. `mup`: both are those of a model of
`base_width` and `base_layers`, scaled so that every layer's activations change as much in a step at any width and
depth, and a learning rate that is right for the base is right for the model (Yang et al. 2022, "Tensor Programs V",
arXiv 2203.03466, Table 8; in depth Dey et al. 2025, CompleteP, arXiv 2505.01618, with α = 1). With the ratios of a
matrix's inputs n and outputs m to those of the base, and the ratio of depths l:

    parameter                         initial deviation    AdamW's rate    Muon's rate
    projection                        1 / √n               1 / n           √(m / n) / √(larger side's)
    projection into the stream        × 1 / l              × 1 / l         × 1 / l
    final norm                        1 / n (all of it)    1 / n           –
    output head, if not tied          0                    1               –
    embedding, others                 1                    1               –

Matrices are told apart by their shapes alone, so this holds for every mixer: what reads the stream to give a number a
head (the recurrence's d, an SSM's Δ, a gate) has inputs that grow and is a projection like any other, while what comes
out of a matrix of rank 16 has inputs that do not. Decay rates, biases and convolutions work channel by channel and are
left alone. Heads keep their size and grow in number, so the scale of q·k stays. The final norm stands for the output's
factor 1 / n, so that a tied head is scaled, too. One of its own begins at 0, as the same paper advises (D.2): what
logits it gave at first would shrink with the width, and the steps that they cause. Shrinking by weight decay is kept
as it is at the base: where a rate is lower, the decay is higher by as much. AdamW's ε is not scaled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from torch import nn

from glm_scale.layers.projection import Projection, is_hidden_projection, is_projection
from glm_scale.model.config import ModelConfig
from glm_scale.parallel.axis import TensorAxis
from glm_scale.parallel.tensor.splitting import whole_shape

__all__ = ["Scaling", "base_of", "scalings"]


@dataclass(frozen=True)
class Scaling:
    """Factors on the base model's initial deviation and learning rate."""

    std: float = 1.0
    rate: float = 1.0
    muon_rate: float = 1.0


def base_of(config: ModelConfig) -> ModelConfig:
    """The model whose learning rate is meant: as wide as `base_width`, with heads of the same size, one layer of each
    mixer."""
    assert config.base_width is not None

    def part(size: int) -> int:
        return size * config.base_width // config.width  # type: ignore[operator]

    changes = {
        "width": config.base_width, "heads": part(config.heads), "kv_heads": config.kv_heads and part(config.kv_heads),
        "head_dim": config.head_size, "mlp_width": part(config.mlp_size), "layers": len(config.mixers),
        "parametrization": "standard", "base_width": None, "base_layers": None,
    }  # fmt: skip
    return ModelConfig.model_validate(config.model_dump() | changes)


def scalings(model: nn.Module, base: nn.Module, config: ModelConfig, tensor: TensorAxis | None) -> dict[str, Scaling]:
    """Of the parameters of a language model of `config` that are scaled, by name. `base`: the model of `base_of`;
    `tensor`: the ranks over which the weights of `model` are split."""
    shapes = {name: parameter.shape for name, parameter in base.named_parameters()}
    depth = config.layers / (config.base_layers or config.layers)
    assert config.base_width is not None
    ratio = config.width / config.base_width
    found = {"norm.weight": Scaling(1 / ratio, 1 / ratio), "head.weight": Scaling(std=0.0)}
    for name, module in _hidden(model):
        rows, columns = whole_shape(tuple(module.weight.shape), cast(nn.Parameter, module.weight), tensor)
        base_rows, base_columns = shapes[_in_base(name, len(config.mixers))]
        inputs, outputs = columns / base_columns, rows / base_rows
        deeper = depth if is_projection(module, residual=True) else 1.0
        larger = max(rows, columns) / max(base_rows, base_columns)
        muon = (outputs / inputs / larger) ** 0.5
        found[name] = Scaling(1 / inputs**0.5 / deeper, 1 / inputs / deeper, muon / deeper)
    return found


def _hidden(model: nn.Module) -> Iterator[tuple[str, Projection]]:
    for name, module in model.named_modules():
        if is_hidden_projection(module):
            yield f"{name}.weight", cast(Projection, module)


def _in_base(name: str, mixers: int) -> str:
    """The parameter of the base's layer with the same mixer."""
    blocks, number, rest = name.split(".", 2)
    return f"{blocks}.{int(number) % mixers}.{rest}"
