"""The part of a model that one tensor rank has, without values.

Every weight is laid out head by head, so a rank's part of a layer is a layer with fewer heads, hidden units and tokens;
it takes neither a process group nor the layers that exchange.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from glm_scale.model.block import Block
from glm_scale.model.config import ModelConfig

__all__ = ["Part", "Weight"]


@dataclass(frozen=True)
class Weight:
    """A parameter. `decays`: whether it is in the optimizer's first group, as `optimizer.parameter_groups` says."""

    numbers: int
    decays: bool


class Part:
    """One of `ranks` parts of a model whose sizes they divide."""

    def __init__(self, config: ModelConfig, ranks: int) -> None:
        self.ranks = ranks
        self.config = config.model_copy(
            update={
                "heads": config.heads // ranks,
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
    def stages(self) -> list[list[list[int]]]:
        """Embedding, blocks, and what follows them: the parameters of every module there that has any, in the order of
        the forward pass. Indices of `weights`."""
        return self._taken_stock[0]

    @cached_property
    def weights(self) -> list[Weight]:
        """In the order in which a model lists its parameters."""
        return self._taken_stock[1]

    @cached_property
    def _taken_stock(self) -> tuple[list[list[list[int]]], list[Weight]]:
        weights: list[Weight] = []

        def numbered(modules: list[list[Weight]]) -> list[list[int]]:
            found = []
            for module in modules:
                found.append(list(range(len(weights), len(weights) + len(module))))
                weights.extend(module)
            return found

        tied = self.config.tie_embeddings
        table, norm = self.config.vocab_size * self.config.width, Weight(self.config.width, decays=False)
        blocks = {name: list(_own_weights(block)) for name, block in self.blocks.items()}
        stages = [numbered([[Weight(table, decays=False)]])]
        stages += [numbered(blocks[name]) for name in self.layers]
        tail = numbered([[norm]] if tied else [[norm], [Weight(table, decays=True)]])
        return [*stages, [*tail, [0]] if tied else tail], weights

    @property
    def numbers(self) -> int:
        """Parameters of this part."""
        return sum(weight.numbers for weight in self.weights)

    def block_flops_per_token(self, length: int) -> float:
        """Forward, of all blocks; the mean over a document of `length` tokens."""
        return sum(self.blocks[name].flops_per_token(length) for name in self.layers)

    @property
    def head_flops_per_token(self) -> float:
        return 2 * self.config.width * self.config.vocab_size


def _own_weights(block: nn.Module) -> Iterator[list[Weight]]:
    for module in block.modules():
        own = [Weight(p.numel(), p.ndim >= 2) for p in module.parameters(recurse=False)]
        if own:
            yield own
