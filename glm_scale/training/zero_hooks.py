"""ZeRO-3 fetches the weights of a layer, and gives them up, in hooks of every module."""

from torch import nn

from glm_scale.model.block import Block
from glm_scale.parallel.graph_breaks import between_graphs

__all__ = ["run_hooks_between_graphs"]


def run_hooks_between_graphs(model: nn.Module) -> None:
    """Where blocks are compiled, that DeepSpeed's hooks are not: a compiler would take their bookkeeping apart at every
    layer anew. Call it once they are there."""
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key, hook in hooks.items():
                hooks[key] = between_graphs(hook)
        if isinstance(module, Block):
            module.breaks_mlp = True
