"""A pass over compiled graphs that lets an exchange of rows stand beside the product which reads or makes them.

Import this module only where something is compiled: torch's compiler takes a while to load.
"""

from __future__ import annotations

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, Node

_aten = torch.ops.aten
_RESHAPES = (_aten.view.default, _aten.reshape.default, _aten._unsafe_view.default)


class OneReshape(CustomGraphPass):
    """Makes one reshape of several that follow one another, and none of those that end where they began."""

    def __call__(self, graph: Graph) -> None:
        for node in graph.nodes:
            if node.target not in _RESHAPES:
                continue
            while isinstance(before := node.args[0], Node) and before.target in _RESHAPES:
                node.replace_input_with(before, before.args[0])
            if isinstance(before, Node) and before.meta["val"].shape == node.meta["val"].shape:
                node.replace_all_uses_with(before)
        for node in reversed(graph.nodes):
            if node.target in _RESHAPES and not node.users:
                graph.erase_node(node)

    def uuid(self) -> bytes:
        return get_hash_for_files((__file__,))
