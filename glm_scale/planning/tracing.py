"""A block as its compiler sees it: what it keeps for the backward pass, and bytes that its elementwise work moves.

The graph is torch's own (AOTAutograd with the decompositions and the partitioner of its compiler, Inductor), made of
tensors without values, so neither a GPU nor a compilation is needed and a new mixer needs no entry here.

What the compiler fuses is approximated: operations that stand between the same matrix products or token mixings, and
pass tensors to one another, are one kernel. It reads what comes in once and writes what others need. A sum over all
tokens (the gradient of a norm's weight) is taken for free; Inductor reads its input once more.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._pytree import tree_leaves

from glm_scale.layers.rotary import Rotary, Rotation
from glm_scale.layers.sequence import Sequence
from glm_scale.model.block import Block
from glm_scale.model.config import ModelConfig

__all__ = ["Traced", "elementwise_bytes", "trace_block"]

_ALONE = frozenset({"mm", "addmm", "bmm", "baddbmm"})
"""Matrix products; with them everything of `_scaled_dot_product_…` and of glm_kernels is a kernel of its own."""


@dataclass(frozen=True)
class Traced:
    """Bytes of one block: what it keeps, its input among it, if it is compiled; and what the elementwise work of its
    forward and of its backward pass reads and writes."""

    kept: int
    forward: int
    backward: int


def trace_block(
    block: Block, batch: int, length: int, dtype: torch.dtype, config: ModelConfig, compiled: bool,
    recomputes_mlp: bool = False,
) -> Traced:  # fmt: skip
    """Of `batch` sequences of `length` tokens, one document each; `config`: of the block's part of the model.

    Without a compiler every operation of the graph is a kernel by itself, which counts norms in pieces that GPUs have
    one kernel for. `recomputes_mlp`: see `Block`; what is computed again is part of the backward graph.
    """
    block = copy.deepcopy(block)
    block.recomputes_mlp = recomputes_mlp
    block.fed_forward_again = partial(_marked, _FedForward(block))  # type: ignore[method-assign]
    with FakeTensorMode():
        for owner in block.modules():
            for name, parameter in owner.named_parameters(recurse=False):
                owner.register_parameter(name, nn.Parameter(torch.empty(parameter.shape, dtype=dtype)))
        x = torch.empty(batch, length, config.width, dtype=dtype, requires_grad=True)
        positions = torch.zeros(batch, length, dtype=torch.int64)
        angles = Rotary(config.head_size, config.rotary_base)(positions)
        names, parameters = zip(*block.named_parameters(), strict=True)

        def run(x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, *values: Tensor) -> Tensor:
            sequence = Sequence(None, positions, Rotation(cos, sin))
            result: Tensor = functional_call(block, dict(zip(names, values, strict=True)), (x, sequence))
            return result

        forward, backward = _graphs(run, (x, positions, *angles, *parameters), compiled)
        kept = _kept(forward, x)
    return Traced(kept, elementwise_bytes(forward, compiled), elementwise_bytes(backward, compiled))


class _FedForward(nn.Module):
    """What a block computes again, as a module of its own."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.norm, self.mlp = block.mlp_norm, block.mlp
        self.forward = block.fed_forward


def _marked(module: nn.Module, x: Tensor) -> Tensor:
    """module(x), marked as what is to be computed again, in the way in which a compiler says so to itself.

    To it a checkpoint is an operator with a graph, and this graph is one node.
    """
    from torch._higher_order_ops.wrap import tag_activation_checkpoint

    names, values = zip(*module.named_parameters(), strict=True)

    class Called(nn.Module):
        def forward(self, x: Tensor, *values: Tensor) -> Any:
            return functional_call(module, dict(zip(names, values, strict=True)), (x,))

    graph = fx.Graph()
    graph.output(graph.call_module("called", tuple(graph.placeholder(f"x{index}") for index in range(1 + len(values)))))
    called = fx.GraphModule({"called": Called()}, graph)
    result: Tensor = tag_activation_checkpoint(called, x, *values, use_reentrant=False, preserve_rng_state=False)
    return result


def _graphs(run: Callable[..., Tensor], inputs: tuple[Tensor, ...], compiled: bool) -> tuple[fx.Graph, fx.Graph]:
    """Of the forward and of the backward pass."""
    from torch._functorch.aot_autograd import aot_function, make_boxed_func
    from torch._functorch.partitioners import min_cut_rematerialization_partition
    from torch._inductor.decomposition import select_decomp_table

    graphs: list[fx.Graph] = []

    def take(gm: fx.GraphModule, example_inputs: Any) -> Callable[..., Any]:
        graphs.append(gm.graph)
        boxed: Callable[..., Any] = make_boxed_func(gm.forward)
        return boxed

    traced = aot_function(
        run, fw_compiler=take, bw_compiler=take, decompositions=select_decomp_table() if compiled else {},
        partition_fn=partial(min_cut_rematerialization_partition, compiler="inductor"),
    )  # fmt: skip
    traced(*inputs).sum().backward()
    forward, backward = graphs
    return forward, backward


def _kept(forward: fx.Graph, x: Tensor) -> int:
    """Bytes of the storages that a forward graph hands to the backward one, and of its input x. Parameters and angles,
    the other placeholders, are there in any case."""
    placeholders = [node for node in forward.nodes if node.op == "placeholder"]
    there = {_storage(value) for node in placeholders if (value := _value(node)) is not None}
    (output,) = (node for node in forward.nodes if node.op == "output")
    results: list[fx.Node] = list(output.args[0])
    storages = {
        _storage(value): value.untyped_storage().nbytes()
        for node in results[1:]
        if isinstance(node, fx.Node) and (value := _value(node)) is not None
    }
    kept = sum(size for storage, size in storages.items() if storage not in there)
    return kept + x.untyped_storage().nbytes()


# Elementwise work ----------------------------------------------------------------------------------------------------


def elementwise_bytes(graph: fx.Graph, fused: bool = True) -> int:
    """Bytes that operations other than matrix products and token mixings read and write; views cost nothing."""
    nodes = [node for node in graph.nodes if node.op == "call_function"]
    sources = {node: _seen_through_views(node) for node in graph.nodes}
    working = [node for node in nodes if sources[node] is node and not _alone(node)]
    kernels = _regions(graph, working, sources) if fused else {node: node for node in working}
    reads: dict[tuple[fx.Node, fx.Node], int] = {}
    written: dict[fx.Node, int] = {}
    for node in [*nodes, *(node for node in graph.nodes if node.op == "output")]:
        kernel = kernels.get(node)
        if sources[node] is not node:
            continue
        for given in node.all_input_nodes:
            source = sources[given]
            if kernel is not None and kernels.get(source) is not kernel:
                key = kernel, source
                reads[key] = max(reads.get(key, 0), _bytes(given))
            if source in kernels and (kernel is None or kernels[source] is not kernel):
                written[source] = _bytes(source)
    return sum(reads.values()) + sum(written.values())


def _regions(graph: fx.Graph, working: Iterable[fx.Node], sources: Mapping[fx.Node, fx.Node]) -> dict[fx.Node, fx.Node]:
    """By operation, one that stands for the kernel it is in."""
    stages, found = _stages(graph, sources), {node: node for node in working}

    def root(node: fx.Node) -> fx.Node:
        while found[node] is not node:
            node = found[node]
        return node

    for node in list(found):
        for given in (sources[given] for given in node.all_input_nodes):
            if given in found and stages[given] == stages[node]:
                found[root(given)] = root(node)
    return {node: root(node) for node in found}


def _stages(graph: fx.Graph, sources: Mapping[fx.Node, fx.Node]) -> dict[fx.Node, int]:
    """How many kernels of their own lie before each operation; it is done as late as those that use it allow."""
    earliest: dict[fx.Node, int] = {}
    users: dict[fx.Node, list[fx.Node]] = {}
    for node in graph.nodes:
        given = [sources[given] for given in node.all_input_nodes]
        earliest[node] = max((earliest[one] + _alone(one) for one in given), default=0)
        if sources[node] is node:
            for one in given:
                users.setdefault(one, []).append(node)
    latest = dict(earliest)
    for node in reversed(list(graph.nodes)):
        using = users.get(node, [])
        if using and node.op == "call_function" and not _alone(node):
            latest[node] = max(earliest[node], min(latest[user] for user in using))
    return latest


def _alone(node: fx.Node) -> bool:
    if node.op != "call_function":
        return False
    target = node.target
    if target is operator.getitem:
        return False
    name = getattr(target, "name", lambda: str(target))()
    namespace, _, rest = name.partition("::")
    return namespace == "glm_kernels" or rest.partition(".")[0] in _ALONE or "scaled_dot_product" in rest


def _seen_through_views(node: fx.Node) -> fx.Node:
    """The node whose tensor this one shows."""
    while node.op == "call_function" and not _alone(node):
        value = _value(node)
        shown = next((given for given in node.all_input_nodes if _shares(value, _value(given))), None)
        if node.target is operator.getitem:
            shown = node.all_input_nodes[0]
        if shown is None:
            break
        node = shown
    return node


def _shares(x: Tensor | None, y: Tensor | None) -> bool:
    return x is not None and y is not None and _storage(x) == _storage(y)


def _value(node: fx.Node) -> Tensor | None:
    value = node.meta.get("val")
    return value if isinstance(value, Tensor) else None


def _storage(x: Tensor | None) -> int:
    assert x is not None
    return x.untyped_storage()._cdata


def _bytes(node: fx.Node) -> int:
    """Of all tensors that a node gives; one that is expanded counts as it lies in memory."""
    tensors = (x for x in tree_leaves(node.meta.get("val")) if isinstance(x, Tensor))
    return sum(min(x.numel() * x.element_size(), x.untyped_storage().nbytes()) for x in tensors)
