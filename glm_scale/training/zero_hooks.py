"""ZeRO-3 fetches the weights of a layer, and gives them up, in hooks of every module."""

import torch
from torch import nn

from glm_scale.model.block import Block

__all__ = ["run_hooks_between_graphs"]


def run_hooks_between_graphs(model: nn.Module) -> None:
    """For a model whose blocks are compiled: DeepSpeed's hooks are not, whose bookkeeping a compiler would take apart
    at every layer anew. Call it once they are there."""
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key, hook in hooks.items():
                hooks[key] = torch.compiler.disable(hook)
        if isinstance(module, Block):
            module.breaks_mlp = True
