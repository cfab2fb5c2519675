"""Several models of one shape as one, so that a GPU has enough to do with models this small.

A stack of M models with H heads each is one model with M·H heads: everything in a mixer happens head by head, and so do
its weights lie, as for tensor parallelism. What runs over channels is made block by block: projections become one
batched product over the models, norms have a group for each, convolutions and other vectors are laid side by side.
Operators see nothing but more heads, so that each runs on the kernels that it always runs on, fla's among them; under
`torch.func.vmap` every one of them would need a rule of its own.

The weights of all models are one tensor, a row for each model: an optimizer is a few operations on it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glm_scale.layers.conv import ShortConv
from glm_scale.layers.embedding import is_token_embedding
from glm_scale.layers.projection import is_projection
from glm_scale.mixers import Mixer, MixerError
from glm_scale.mixers.attention.mixing import AttentionMixing
from glm_scale.mixers.heads import HeadMixing, MultiHead
from glm_scale.model import LanguageModel
from glm_scale.model.head import LanguageModelHead

__all__ = ["Stack", "require_agreement"]

_ROUNDING = 1e-3
"""Far above what another order of sums makes of logits, far below what a weight in a wrong place does."""


class Stack:
    """M models as one.

    weights: fp32 `[M, N]`, a leaf that wants gradients; row m holds the parameters of model m, one behind the other.
    Raises MixerError for a mixer that is not made of heads, as `MultiHead` is.
    """

    def __init__(self, models: Sequence[LanguageModel], device: torch.device) -> None:
        first = models[0]
        for block in first.blocks:
            _require_heads(cast(Mixer, block.mixer))
        self.size = len(models)
        self._shapes = {name: parameter.shape for name, parameter in first.named_parameters()}
        rows = [torch.cat([p.detach().flatten() for p in model.parameters()]) for model in models]
        self.weights = torch.stack(rows).to(device).requires_grad_()
        self._skeleton, self._layouts = _skeleton_of(first, self.size)

    def logits(self, weights: Tensor, tokens: Tensor) -> Tensor:
        """`[B, T, M, vocabulary]` of tokens int64 `[B, T, M]`, those of each model its own; weights as in `weights`."""
        sizes = [math.prod(shape) for shape in self._shapes.values()]
        parts = zip(self._shapes.items(), weights.split(sizes, 1), strict=True)
        placed = {name: self._layouts[name](part.unflatten(1, shape)) for (name, shape), part in parts}
        return torch.func.functional_call(self._skeleton, placed, (tokens,))

    def marked(self, names: set[str]) -> Tensor:
        """bool `[N]`: which columns of `weights` belong to parameters of these names."""
        marks = [torch.full(shape, name in names).flatten() for name, shape in self._shapes.items()]
        return torch.cat(marks).to(self.weights.device)


def require_agreement(stack: Stack, models: Sequence[LanguageModel], tokens: Tensor) -> None:
    """Raise MixerError unless the first and the last model give the logits of tokens `[B, T]` that they give alone.

    They do not if a mixer of one's own has weights that serve several heads. Gradients are on, so that an operator
    whose gradients are known to be wrong is refused as well.
    """
    device = stack.weights.device
    tokens = tokens.to(device)
    stacked = stack.logits(stack.weights, tokens[:, :, None].expand(-1, -1, stack.size)).detach()
    for index in {0, len(models) - 1}:
        alone = copy.deepcopy(models[index]).to(device)(tokens).detach()
        if not (stacked[:, :, index] - alone).norm() <= _ROUNDING * alone.norm():
            name = models[index].config.mixer_name
            raise MixerError(
                f"mixer {name!r} computes something else where models are stacked: it has weights that serve several "
                "heads; lay them out head by head, as glm_scale.mixers.heads.HeadMixing says"
            )


def _require_heads(mixer: Mixer) -> None:
    if not isinstance(mixer, MultiHead):
        raise MixerError(
            f"mixer {mixer.name!r} is not made of heads (glm_scale.mixers.heads.MultiHead), so that models with it "
            "cannot be stacked; leave it out of the tasks"
        )


Layout = Callable[[Tensor], Tensor]
"""From a parameter of all models, `[M, …]`, to what the module of the skeleton takes."""


def _skeleton_of(model: LanguageModel, size: int) -> tuple[LanguageModel, dict[str, Layout]]:
    """The model with `size` times its heads, which computes with the parameters that it is given, and their layouts."""
    skeleton = copy.deepcopy(model).requires_grad_(False)
    layouts: dict[str, Layout] = {name: _side_by_side for name, _ in model.named_parameters()}
    for name, module in list(skeleton.named_modules()):
        if is_projection(module) or is_token_embedding(module):
            skeleton.set_submodule(name, _stacked(module, size))
            layouts |= {f"{name}.{part}": _as_it_is for part, _ in module.named_parameters()}
        elif isinstance(module, ShortConv):
            layouts[f"{name}.weight"] = _channels_side_by_side
        if isinstance(module, HeadMixing | Mixer):
            module.heads *= size
        if isinstance(module, AttentionMixing):
            module.kv_heads *= size
        if hasattr(module, "groups"):
            module.groups *= size
    return skeleton, layouts


def _stacked(module: nn.Module, size: int) -> _Stacked:
    if is_token_embedding(module):
        return _StackedEmbedding(module, size)
    return _StackedHead(module, size) if isinstance(module, LanguageModelHead) else _StackedProjection(module, size)


def _side_by_side(parameter: Tensor) -> Tensor:
    return parameter.flatten(0, 1)


def _channels_side_by_side(weight: Tensor) -> Tensor:
    """`[M, width, channels]` to `[width, M · channels]`."""
    return weight.transpose(0, 1).flatten(1)


def _as_it_is(parameter: Tensor) -> Tensor:
    return parameter


class _Stacked(nn.Module):
    """Takes the place of a module; its parameters have the models' as their first dimension."""

    def __init__(self, module: nn.Module, size: int) -> None:
        super().__init__()
        self.size = size
        for name, parameter in module.named_parameters():
            self.register_parameter(name, parameter)


class _StackedProjection(_Stacked):
    """`[…, M · inputs]` to `[…, M · outputs]`, each model by its own weight."""

    def __init__(self, module: nn.Module, size: int) -> None:
        super().__init__(module, size)
        if "bias" not in self._parameters:
            self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        return self._by_model(x).flatten(-2)

    def _by_model(self, x: Tensor) -> Tensor:
        weight, bias = cast(Tensor, self.weight), cast(Tensor | None, self.bias)
        y = torch.einsum("...mi,moi->...mo", x.unflatten(-1, (self.size, -1)), weight)
        return y if bias is None else y + bias


class _StackedHead(_StackedProjection):
    """The logits of each model, `[B, T, M, vocabulary]`."""

    def forward(self, x: Tensor, labels: None = None, reduction: None = None) -> Tensor:
        return self._by_model(x)


class _StackedEmbedding(_Stacked):
    """Tokens `[B, T, M]` to `[B, T, M · width]`, each model's from its own table."""

    def forward(self, tokens: Tensor) -> Tensor:
        table = cast(Tensor, self.weight)
        first = torch.arange(self.size, device=tokens.device) * table.shape[1]
        return F.embedding(tokens + first, table.flatten(0, 1)).flatten(-2)
