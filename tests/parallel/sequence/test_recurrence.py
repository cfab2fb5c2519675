"""Recurrences over sequence shards, in the simulator and in float64: together the ranks compute the whole rows."""

import pytest
import torch

from glm_kernels import parse_pattern, recurrence
from glm_scale.parallel.collectives.simulator import simulate
from glm_scale.parallel.sequence.reach import spans_read
from glm_scale.parallel.sequence.recurrence import ShardedRecurrence
from tests.tolerances import assert_pass_close, rounding

pytestmark = pytest.mark.numeric

LIFETIMES = ["lattice:2^k", "lattice:k^2+1", "window:5", "window:60", "lattice:3^k", "window:1"]


def operands(batch, total, heads, dtype=torch.float64, widths=(6, 5)):
    generator = torch.Generator().manual_seed(total)
    key, value = ((batch, total, heads, width) for width in widths)
    return [torch.randn(*shape, generator=generator, dtype=dtype) for shape in (key, key, value, key[:3], value)]


def documents(batch, total, ranks):
    """Documents that begin with a shard, end with one, span several, and hold a single row."""
    starts = torch.zeros(batch, total, dtype=torch.int32)
    length = total // ranks
    for row, cuts in zip(starts, ([length - 1, length, 2 * length + 3, total - 1], [length // 2]), strict=False):
        for cut in cuts:
            row[cut:] = cut
    return starts


def results(y, leaves, grad):
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]


def over_ranks(inputs, starts, spelling, ranks, strategy):
    *inputs, grad = inputs
    length = inputs[0].shape[1] // ranks

    def work(rank):
        rows = slice(rank.rank * length, (rank.rank + 1) * length)
        q, k, v, d = leaves = [x[:, rows].clone().requires_grad_() for x in inputs]
        sharded = ShardedRecurrence(spelling, rank, strategy)
        begun = sharded.begin(k, starts)
        return results(sharded.finish(begun, q, v, d), leaves, grad[:, rows])

    return [torch.cat(parts, 1) for parts in zip(*simulate(ranks, work), strict=True)]


def alone(inputs, starts, spelling):
    *inputs, grad = inputs
    q, k, v, d = leaves = [x.clone().requires_grad_() for x in inputs]
    y, _ = recurrence(q, k, v, d, parse_pattern(spelling), document_starts=starts, backend="reference")
    return results(y, leaves, grad)


def same(length, dtype=torch.float64):
    """What rounding does to y and its gradients: sums over rows, in chains of rows, forward and backward."""
    return rounding(dtype, 4 * (length + 6))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("ranks", "length"), [(2, 37), (4, 16), (16, 9)])
@pytest.mark.parametrize(
    ("spelling", "strategy"),
    [
        *((spelling, strategy) for spelling in LIFETIMES for strategy in ("scan", "ring", "a2a")),
        *((spelling, way) for spelling in ("dense", "offsets:2^k", "offsets:k^2+1") for way in ("a2a", "ring")),
    ],
)
def test_shards_equal_the_whole_rows(spelling, strategy, ranks, length, packed):
    heads = ranks if strategy == "a2a" else 3
    inputs = operands(2, ranks * length, heads)
    starts = documents(2, ranks * length, ranks) if packed else None
    found = over_ranks(inputs, starts, spelling, ranks, strategy)
    assert_pass_close(found, alone(inputs, starts, spelling), same(ranks * length))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("spelling", ["offsets:2^k", "offsets:3^k", "offsets:k^2+1", "offsets:7*k+5", "offsets:k+40"])
@pytest.mark.parametrize(("ranks", "length"), [(4, 8), (8, 16), (16, 4), (5, 13), (3, 31)])
def test_rows_reach_their_readers_and_no_other_rank(ranks, length, spelling, packed):
    inputs = operands(1, ranks * length, 2)
    starts = documents(1, ranks * length, ranks) if packed else None
    found = over_ranks(inputs, starts, spelling, ranks, "ring")
    assert_pass_close(found, alone(inputs, starts, spelling), same(ranks * length))

    reads = parse_pattern(spelling).read_matrix(ranks * length).view(ranks, length, ranks, length).any(1)
    for distance in range(1, ranks):
        needed = torch.stack([reads[rank, rank - distance] for rank in range(distance, ranks)]).any(0)
        sent = torch.zeros(length, dtype=torch.bool)
        for first, end in spans_read(parse_pattern(spelling), length, distance):
            sent[first:end] = True
        assert torch.equal(sent, needed)


@pytest.mark.parametrize("strategy", ["scan", "ring", "a2a"])
def test_early_rows_reach_late_ones_across_ranks(strategy):
    inputs = operands(1, 64, 4)
    before = over_ranks(inputs, None, "lattice:2^k", 4, strategy)[0]
    inputs[2][:, 3] += 1
    after = over_ranks(inputs, None, "lattice:2^k", 4, strategy)[0]
    # Far less than any input weighs after so few hops, and far more than rounding.
    assert ((after - before)[:, 48:].abs().amax((0, 2, 3)) > 1e4 * same(64)).all()
