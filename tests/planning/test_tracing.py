"""What a compiled block keeps and moves: counted by hand for a block of known parts."""

import pytest
import torch

from glm_scale.layers.rotary import Rotary
from glm_scale.layers.sequence import Sequence
from glm_scale.model.block import Block
from glm_scale.model.config import ModelConfig
from glm_scale.planning.parts import Part
from glm_scale.planning.tracing import Traced, elementwise_bytes, trace_block

BATCH, LENGTH, WIDTH, HIDDEN, HEADS = 2, 64, 32, 96, 4
TOKENS = BATCH * LENGTH


def traced(mixer: str, compiled: bool = True, recomputes_mlp: bool = False) -> Traced:
    config = ModelConfig(vocab_size=16, layers=1, width=WIDTH, heads=HEADS, mlp_width=HIDDEN, mixers=(mixer,))
    part = Part(config, 1)
    return trace_block(part.blocks[mixer], BATCH, LENGTH, torch.bfloat16, part.config, compiled, recomputes_mlp)


@pytest.mark.parametrize(("mixer", "numbers"), [("lattice:2^k", 2 * HEADS), ("attention", 4 * HEADS)])
def test_a_compiled_block_keeps_what_its_products_and_its_mixer_read(mixer: str, numbers: int) -> None:
    """Input, two norms' results, q, k, v, y, the mixer's projection; three tensors of the MLP; two norms' statistics
    in fp32, and of every token and head a gate in bf16 or the sum of a softmax in fp32."""
    each = 2 * (8 * WIDTH + 3 * HIDDEN) + 2 * 4 + numbers
    assert traced(mixer).kept == TOKENS * each
    of_mlp = 2 * (WIDTH + 3 * HIDDEN) + 4
    assert traced(mixer, recomputes_mlp=True).kept == TOKENS * (each - of_mlp)


@pytest.mark.parametrize("recomputes_mlp", [False, True])
@pytest.mark.parametrize("mixer", ["lattice:2^k", "attention", "ssm:8", "local:8 > window:2"])
def test_a_block_that_is_compiled_keeps_as_much(mixer: str, recomputes_mlp: bool) -> None:
    """By torch.compile itself, with the same decompositions and partitioner, but without generating code."""
    config = ModelConfig(vocab_size=16, layers=1, width=WIDTH, heads=HEADS, mlp_width=HIDDEN, mixers=(mixer,))
    block = Block(config, config.layer_mixers()[0]).bfloat16()
    block.recomputes_mlp = recomputes_mlp
    torch._dynamo.reset()  # which would not compile the same function for more than a few blocks
    block.compile(backend="aot_eager_decomp_partition")
    x = torch.randn(BATCH, LENGTH, WIDTH, dtype=torch.bfloat16, requires_grad=True)
    positions = torch.arange(LENGTH).expand(BATCH, LENGTH)
    angles = Rotary(config.head_size, config.rotary_base)(positions)
    known = {y.untyped_storage()._cdata for y in (*block.parameters(), *angles)}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(y: torch.Tensor) -> torch.Tensor:
        if y.untyped_storage()._cdata not in known:
            kept[y.untyped_storage()._cdata] = y.untyped_storage()
        return y

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda y: y):
        block(x, Sequence(None, positions, angles))
    assert sum(storage.nbytes() for storage in kept.values()) == pytest.approx(
        traced(mixer, recomputes_mlp=recomputes_mlp).kept, rel=0.01
    )


def test_fused_work_reads_what_comes_in_and_writes_what_others_need() -> None:
    """Forward: a norm (2 tensors), rotations of q and k (4) with their angles (fp32, half a head each), the residual
    sum with the second norm (3), the gate (3 of the MLP), the last sum with the first one again (4)."""
    angles = 2 * 2 * 4 * (WIDTH // HEADS // 2)
    statistics = 2 * 4
    weights = 2 * 2 * WIDTH
    found = traced("lattice:2^k").forward
    assert found == pytest.approx(TOKENS * (2 * (13 * WIDTH + 3 * HIDDEN) + angles + statistics) + weights, rel=0.03)


def test_without_a_compiler_every_operation_moves_its_own() -> None:
    fused, alone = traced("ssm"), traced("ssm", compiled=False)
    assert alone.forward > 2 * fused.forward
    assert alone.backward > 2 * fused.backward


def test_bytes_of_a_graph() -> None:
    def run(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        y = (x.sin() + 1).t().t()
        return (y @ weight).cos()

    x, weight = torch.zeros(8, 4), torch.zeros(4, 2)
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(run, tracing_mode="fake")(x, weight).graph
    # sin and + read x and write y; cos reads and writes what the product gives.
    assert elementwise_bytes(graph) == 4 * (2 * 8 * 4 + 2 * 8 * 2)
    assert elementwise_bytes(graph, fused=False) == 4 * (4 * 8 * 4 + 2 * 8 * 2)
