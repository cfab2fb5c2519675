"""What of the blocks the backward pass computes again, by the policy of activation checkpointing."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from glm_scale.layers.activation_checkpointing import ActivationCheckpointing
from glm_scale.layers.projection import is_projection, projection_flops
from glm_scale.model.block import Block
from glm_scale.planning.parts import Module, Part

__all__ = ["again_flops_per_token", "modules_again", "projections_again", "weights_again", "whole_blocks"]


def whole_blocks(policy: ActivationCheckpointing) -> bool:
    """Whether everything in a block is computed again, its token mixing and what that exchanges too."""
    return policy == "full"


def projections_again(block: Block, policy: ActivationCheckpointing) -> Sequence[nn.Linear]:
    """Projections whose forward product is computed twice."""
    if policy == "selective":
        return [block.mlp.gate, block.mlp.up]
    projections = [module for module in block.modules() if is_projection(module)]
    return projections if whole_blocks(policy) else []  # type: ignore[return-value]


def again_flops_per_token(part: Part, policy: ActivationCheckpointing, length: int) -> float:
    """Of all blocks; the mean over a document of `length` tokens."""
    if whole_blocks(policy):
        return part.block_flops_per_token(length)
    return sum(projection_flops(*projections_again(part.blocks[name], policy)) for name in part.layers)


def weights_again(part: Part, policy: ActivationCheckpointing) -> int:
    """Numbers of all blocks that are read once more for it."""
    projections = (projection for name in part.layers for projection in projections_again(part.blocks[name], policy))
    return sum(projection.weight.numel() for projection in projections)


def modules_again(block: Module, policy: ActivationCheckpointing) -> Sequence[Module]:
    """Modules of a block that are called again, one after the other; the last is not finished."""
    *_, mlp_norm, mlp = block.within
    return {"none": [], "selective": [mlp_norm, mlp], "full": [block]}[policy]
