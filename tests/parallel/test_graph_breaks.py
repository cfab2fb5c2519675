"""Compiled blocks: graphs end at exchanges, and those of one layer serve all of its kind."""

from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch._dynamo.testing import CompileCounter

from glm_scale.model import LanguageModel, ModelConfig
from glm_scale.parallel.graph_breaks import between_graphs
from glm_scale.parallel.mesh import Layout, Mesh

LENGTH = 32


@between_graphs
def exchange(x):
    """2 x, for all that a compiler knows."""
    assert not torch.compiler.is_compiling()
    return 2 * x


def test_a_function_between_graphs_is_not_compiled():
    def before_and_behind(x):
        return exchange(x + 1) * 3

    counter = CompileCounter()
    torch._dynamo.reset()
    x = torch.arange(4.0)
    assert torch.equal(torch.compile(before_and_behind, backend=counter)(x), 2 * (x + 1) * 3)
    assert (counter.frame_count, counter.op_count) == (2, 2)


def graphs(layers: int, mixers: tuple[str, ...], tensor: int, sequence: int) -> int:
    """How many a model makes of its layers, forward and backward."""
    torch._dynamo.reset()
    mesh = Mesh(Layout.of(dist.get_world_size(), tensor=tensor, sequence=sequence), shards_tokens=tensor > 1)
    config = ModelConfig(layers=layers, width=16, heads=4, mixers=mixers, vocab_size=32, conv_width=3)
    model, counter = LanguageModel(config, tensor=mesh.tensor), CompileCounter()
    model.sequence_axis = mesh.sequence
    model.compile_blocks(counter)
    tokens = torch.arange(LENGTH // sequence)[None]
    for _ in range(3):
        model(tokens, document_starts=torch.zeros_like(tokens).int(), labels=tokens).backward()
    mesh.close()
    return counter.frame_count


def graphs_of_both(few: int, many: int, *how: Any) -> tuple[int, int]:
    """Of few layers and of many, in the same process: what else it has compiled makes graphs end elsewhere."""
    return graphs(few, *how), graphs(many, *how)


@pytest.mark.parametrize(
    ("mixers", "tensor", "sequence"),
    [
        (("lattice:2^k",), 1, 1),
        (("lattice:2^k", "attention"), 1, 1),
        (("ssm:4", "dense", "window:2", "local:3"), 1, 1),
        (("lattice:2^k",), 2, 1),
        (("mamba2:4", "kda:4"), 2, 1),
        (("lattice:2^k", "attention"), 1, 2),
    ],
    ids=str,
)
def test_graphs_of_one_layer_serve_all_of_its_kind(processes, mixers, tensor, sequence):
    ranks, kinds = tensor * sequence, len(mixers)
    for few, many in processes.run(ranks, graphs_of_both, 2 * kinds, 4 * kinds, mixers, tensor, sequence):
        assert few == many
        # Exchanges of tensor ranks are part of the graphs.
        assert sequence > 1 or few == kinds
