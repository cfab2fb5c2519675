"""Attention over sequence shards, in the simulator and in float64: together the ranks compute the whole rows."""

import pytest
import torch

from glm_kernels import Packing
from glm_scale.parallel.collectives.simulator import simulate
from glm_scale.parallel.sequence import attention as sharded
from glm_scale.parallel.sequence.attention import sharded_attention
from tests.parallel.sequence.test_recurrence import documents, operands, results, same
from tests.tolerances import assert_pass_close, unit

pytestmark = pytest.mark.numeric


def over_ranks(inputs, starts, window, ranks, strategy, packing=None):
    *inputs, grad = inputs
    length = inputs[0].shape[1] // ranks

    def work(rank):
        rows = slice(rank.rank * length, (rank.rank + 1) * length)
        q, k, v = leaves = [x[:, rows].clone().requires_grad_() for x in inputs]
        y = sharded_attention(q, k, v, rank, strategy, window=window, document_starts=starts, packing=packing)
        return results(y, leaves, grad[:, rows])

    return [torch.cat(parts, 1) for parts in zip(*simulate(ranks, work), strict=True)]


def alone(inputs, starts, window):
    """The definition: a softmax over the rows that a row may attend to."""
    *inputs, grad = inputs
    q, k, v = leaves = [x.clone().requires_grad_() for x in inputs]
    age = torch.arange(q.shape[1], device=q.device)[:, None] - torch.arange(q.shape[1], device=q.device)
    counts = (age >= 0) & (age < (window or q.shape[1]))
    if starts is not None:
        counts = counts & (torch.arange(q.shape[1]) >= starts[:, :, None])
    scores = torch.einsum("bihk,bjhk->bhij", q, k) * q.shape[3] ** -0.5
    p = scores.masked_fill(~counts.view(-1, 1, *counts.shape[-2:]), -torch.inf).softmax(3)
    return results(torch.einsum("bhij,bjhv->bihv", p, v), leaves, grad)


def without_d(batch, total, heads, dtype=torch.float64):
    q, k, v, _, grad = operands(batch, total, heads, dtype)
    return [q, k, v, grad]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("window", [None, 2, 9, 16, 17, 40, 500])
@pytest.mark.parametrize(("ranks", "length"), [(1, 20), (2, 37), (4, 16), (16, 9)])
def test_a_ring_of_shards_equals_the_whole_rows(ranks, length, window, packed):
    inputs = without_d(2, ranks * length, 3)
    starts = documents(2, ranks * length, ranks) if packed else None
    found = over_ranks(inputs, starts, window, ranks, "ring")
    assert_pass_close(found, alone(inputs, starts, window), same(ranks * length))


@pytest.mark.parametrize("window", [None, 5])
def test_heads_in_exchange_for_rows_equal_the_whole_rows(window):
    inputs, starts = without_d(2, 48, 4), documents(2, 48, 4)
    assert_pass_close(over_ranks(inputs, starts, window, 4, "a2a"), alone(inputs, starts, window), same(48))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels that know a packing are for GPUs")
@pytest.mark.parametrize("count", [1, 4])
def test_heads_in_exchange_for_rows_know_how_sequences_are_packed(count):
    """In bf16, by the kernels that attention takes for few and for many documents on one GPU."""
    inputs = [x[..., :64].repeat(1, 1, 1, 64 // x.shape[3]) for x in without_d(2, 4096, 4)]
    starts = documents(2, 4096, count)
    given = [x.bfloat16() for x in inputs]
    packing = Packing.of(starts, torch.device("cuda"))
    found = over_ranks([x.cuda() for x in given], starts.cuda(), None, 4, "a2a", packing)
    expected = alone([x.double() for x in given], starts, None)
    assert_pass_close([x.cpu() for x in found], expected, 8 * unit(torch.bfloat16))


@pytest.mark.parametrize("window", [None, 3, 7, 30])
@pytest.mark.parametrize("tile", [1, 4, 7])
def test_shards_of_many_tiles(monkeypatch, tile, window):
    monkeypatch.setattr(sharded, "_TILE", tile)
    inputs, starts = without_d(2, 60, 2), documents(2, 60, 3)
    assert_pass_close(over_ranks(inputs, starts, window, 3, "ring"), alone(inputs, starts, window), same(60))


def test_large_scores_neither_overflow_nor_vanish():
    q, k, v, grad = without_d(1, 48, 2)
    inputs = [100 * q, 10 * k, v, grad]
    # A score's rounding, a part of its size, becomes the relative error of a weight.
    scores = 1000 * float(q.norm(dim=3).max() * k.norm(dim=3).max()) * q.shape[3] ** -0.5
    bound = (1 + scores) * same(48)
    assert bound < 1e-8
    assert_pass_close(over_ranks(inputs, None, None, 4, "ring"), alone(inputs, None, None), bound)


@pytest.mark.parametrize("window", [None, 20])
def test_half_precision_keeps_sums_in_float32(window):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    inputs = [x.to(device) for x in without_d(1, 512, 2, torch.bfloat16)]
    found = over_ranks(inputs, None, window, 4, "ring")
    expected = alone([x.double() for x in inputs], None, window)
    assert {x.dtype for x in found} == {torch.bfloat16}
    # Outputs and gradients are rounded to nearest, and gradients are made of outputs that were.
    assert_pass_close(found, expected, 5 * unit(torch.bfloat16) / 2)


def test_a_window_of_one_row_gives_its_value_and_sends_nothing():
    q, k, v, _ = without_d(1, 16, 2)

    def work(rank):
        q_, k_, v_ = (x[:, 4 * rank.rank : 4 * rank.rank + 4] for x in (q, k, v))
        return torch.equal(sharded_attention(q_, k_, v_, rank, "ring", window=1), v_), rank.sent.total()

    assert simulate(4, work) == [(True, 0)] * 4


def test_a_window_sends_what_it_reaches_and_no_more():
    inputs = without_d(1, 64, 1)

    def work(rank):
        rows = slice(rank.rank * 16, (rank.rank + 1) * 16)
        q, k, v = (x[:, rows] for x in inputs[:3])
        sharded_attention(q, k, v, rank, "ring", window=20)
        return rank.sent["send"]

    numbers = (6 + 5) * 8
    # 19 rows back: all of the shard before, 3 rows of the one before that.
    assert simulate(4, work) == [16 * numbers, (16 + 3) * numbers, (16 + 3) * numbers, 0]
