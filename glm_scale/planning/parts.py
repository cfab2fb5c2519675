"""The part of a model that one tensor rank has, without values.

Weights are laid out head by head, but for a few that serve all heads and that every rank has. So a rank's part of a
layer is a layer with fewer heads, hidden units and tokens; it takes neither a process group nor layers that exchange.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from glm_scale.layers.conv import HeadsAndSharedConv
from glm_scale.layers.norm import AllHeadsNorm
from glm_scale.layers.projection import SharedProjection, is_hidden_projection
from glm_scale.model.block import Block
from glm_scale.model.config import ModelConfig

__all__ = ["Module", "Part", "Weight"]

_SHARED = (SharedProjection, HeadsAndSharedConv)


@dataclass(frozen=True)
class Weight:
    """A parameter. `hidden`: the shape of this part of a projection; None of any other."""

    numbers: int
    hidden: tuple[int, int] | None = None


class Module(NamedTuple):
    """Its own parameters, as indices of `Part.weights`, and the modules within, in the order of the forward pass."""

    weights: list[int]
    within: list[Module]


class Part:
    """One of `ranks` parts of a model whose sizes they divide."""

    def __init__(self, config: ModelConfig, ranks: int) -> None:
        self.ranks = ranks
        self.config = config.model_copy(
            update={
                "heads": config.heads // ranks,
                "kv_heads": config.kv_heads and config.kv_heads // ranks,
                "head_dim": config.head_size,
                "mlp_width": config.mlp_size // ranks,
                "vocab_size": config.vocab_size // ranks,
            }
        )
        mixers = {spec.name: spec for spec in config.layer_mixers()}
        with torch.device("meta"):
            self.blocks = {name: Block(self.config, spec) for name, spec in mixers.items()}
        """Blocks that differ, by the name of their mixer."""
        self.layers = [spec.name for spec in config.layer_mixers()]

    @cached_property
    def modules(self) -> Module:
        """The model."""
        return self._taken_stock[0]

    @cached_property
    def weights(self) -> list[Weight]:
        """In the order in which a model lists its parameters."""
        return self._taken_stock[1]

    @cached_property
    def _taken_stock(self) -> tuple[Module, list[Weight]]:
        weights: list[Weight] = []

        def known(weight: Weight) -> Module:
            weights.append(weight)
            return Module([len(weights) - 1], [])

        def module_of(module: nn.Module) -> Module:
            own = [_weight_of(module, name, p, self.ranks) for name, p in module.named_parameters(recurse=False)]
            first = len(weights)
            weights.extend(own)
            return Module(list(range(first, len(weights))), [module_of(child) for child in _called_by(module)])

        table = self.config.vocab_size * self.config.width
        embedding = known(Weight(table))
        blocks = [module_of(self.blocks[name]) for name in self.layers]
        norm = known(Weight(self.config.width))
        head = embedding if self.config.tie_embeddings else known(Weight(table))
        return Module([], [embedding, *blocks, norm, head]), weights

    @property
    def numbers(self) -> int:
        """Parameters of this part."""
        return sum(weight.numbers for weight in self.weights)

    @cached_property
    def shared_weights(self) -> list[int]:
        """The numbers of each weight, in all blocks, that serves all heads and is the same on all ranks."""
        shared = [m for name in self.layers for m in self.blocks[name].modules() if isinstance(m, _SHARED)]
        return [_numbers(module, module.weight, self.ranks) for module in shared]

    @cached_property
    def norms_of_all_heads(self) -> int:
        """How many norms, in all blocks, are over the heads of all ranks."""
        return sum(isinstance(m, AllHeadsNorm) for name in self.layers for m in self.blocks[name].modules())

    def block_flops_per_token(self, length: int) -> float:
        """Forward, of all blocks; the mean over a document of `length` tokens."""
        return sum(self.blocks[name].flops_per_token(length) for name in self.layers)

    @property
    def head_flops_per_token(self) -> float:
        """Forward FLOPs of the output head for one token."""
        return 2 * self.config.width * self.config.vocab_size


def _numbers(module: nn.Module, parameter: Tensor, ranks: int) -> int:
    """Of a part's parameter, as a rank has it."""
    return module.numbers_over(ranks) if isinstance(module, HeadsAndSharedConv) else parameter.numel()


def _weight_of(module: nn.Module, name: str, parameter: Tensor, ranks: int) -> Weight:
    hidden = is_hidden_projection(module) and name == "weight"
    shape = (parameter.shape[0], parameter.shape[1]) if hidden else None
    return Weight(_numbers(module, parameter, ranks), shape)


def _called_by(module: nn.Module) -> Iterator[nn.Module]:
    """Modules within that are called themselves, which lists of modules are not."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from _called_by(child)
        else:
            yield child
