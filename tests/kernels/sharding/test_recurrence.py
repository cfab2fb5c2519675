"""Sequence shards, one after the other in one process: together they are the whole row."""

from typing import Any

import pytest
import torch

from glm_kernels import parse_pattern, recurrence
from glm_kernels.sharding import recurrence as shards
from tests.kernels.exactness import exact
from tests.kernels.operands import DEVICE, Inputs, each, leaves, rows_of
from tests.tolerances import assert_close, assert_pass_close, norm, pass_errors, rounding

pytestmark = pytest.mark.numeric

RANKS = 4


def shards_of(pattern, batch, length, starts):
    return [
        shards.shard_of(
            pattern, batch, rank * length, length, RANKS * length, device=DEVICE,
            document_starts=None if starts is None else starts[:, rank * length : (rank + 1) * length],
        )
        for rank in range(RANKS)
    ]  # fmt: skip


def run(pattern, inputs, grad, starts, backend, *, send_key_gradients=True):
    """y and the gradients of q, k, v, d of the whole row, computed shard by shard."""
    batch, total, heads, _ = inputs[0].shape
    length, width = total // RANKS, inputs[2].shape[3]
    parts = shards_of(pattern, batch, length, starts)
    detached = each(torch.Tensor.detach, inputs)
    operands = [rows_of(detached, s.first_row, s.first_row + length) for s in parts]
    keys = torch.stack([shards.outgoing_keys(x[1], s) for x, s in zip(operands, parts, strict=True)])

    locals_ = [
        shards.forward_local(*x, s, shards.boundary_keys(keys, s), backend=backend)
        for x, s in zip(operands, parts, strict=True)
    ]
    folded, ys, saved = None, [], []
    nothing = torch.zeros(batch, heads, parts[0].slots, width, dtype=grad.dtype, device=DEVICE)
    for local in locals_:
        y, kept = shards.forward_finish(local, nothing if folded is None else folded.add)
        folded = local.summary if folded is None else shards.compose(local.summary, folded)
        ys.append(y)
        saved.append(kept)

    left = nothing
    dkeys: Any = 0
    found: list[list[torch.Tensor]] = []
    for rank in reversed(range(RANKS)):
        shard = parts[rank]
        local = shards.backward_local(saved[rank], grad[:, shard.first_row : shard.first_row + length])
        *gradients, dboundary_k, dboundary_y = shards.backward_finish(local, left)
        left = shards.apply_map(local.summary, left)
        # Both are gradients of the same numbers, from the right, by two ways.
        assert_close(dboundary_y, left, same(grad), norm(grad))
        dkeys = dkeys + shards.sent_key_gradients(dboundary_k, shard, RANKS)
        found.insert(0, gradients)
    if send_key_gradients:
        for rank, gradients in enumerate(found):
            gradients[1] = shards.add_key_gradients(gradients[1], dkeys[rank], parts[rank])
    return [torch.cat(ys, 1), *(torch.cat(x, 1) for x in zip(*found, strict=True))]


def whole(pattern, inputs, grad, starts):
    q, k, v, d = inputs = each(exact, inputs)
    y, _ = recurrence(q, k, v, d, pattern, document_starts=starts, backend="reference")
    return [y.detach(), *torch.autograd.grad(y, inputs, grad.double())]


def documents(batch, total):
    """Documents that cross shards, one that begins with a shard, and one that spans more than a shard."""
    starts = torch.zeros(batch, total, dtype=torch.int32)
    quarter = total // RANKS
    for row, cuts in zip(starts, ([quarter - 5, quarter + 3, 2 * quarter, total - 2], [quarter + 7]), strict=False):
        for cut in cuts:
            row[cut:] = cut
    return starts.to(DEVICE)


def operands(length: int, dtype: torch.dtype, heads: int = 2) -> tuple[Inputs, torch.Tensor]:
    shapes = [(2, RANKS * length, heads, width) for width in (6, 6, 5)]
    q, k, v, d, grad = (x.detach().to(DEVICE) for x in leaves(*shapes, shapes[0][:3], shapes[2], dtype=dtype))
    return (q, k, v, d), grad


def same(x):
    """What rounding does to y and its gradients over all rows of x: sums over rows, in chains of rows, and back."""
    return rounding(x.dtype, 4 * (x.shape[1] + 6))


@pytest.mark.parametrize("spelling", ["lattice:2^k", "lattice:k^2+1", "window:5", "window:60", "dense"])
@pytest.mark.parametrize("packed", [False, True])
def test_shards_equal_the_whole_row(spelling, packed):
    pattern, length = parse_pattern(spelling), 37
    inputs, grad = operands(length, torch.float64)
    starts = documents(2, RANKS * length) if packed else None
    found = run(pattern, inputs, grad, starts, "torch")
    assert_pass_close(found, whole(pattern, inputs, grad, starts), same(grad))


@pytest.mark.exact
@pytest.mark.parametrize(
    ("spelling", "packed", "length"),
    [("lattice:2^k", True, 37), ("lattice:2^k", False, 32), ("lattice:k^2+1", False, 33), ("window:5", True, 16)],
)
def test_segment_kernels_of_shards_equal_the_whole_row(spelling, packed, length, short_segments):
    pattern = parse_pattern(spelling)
    inputs, grad = operands(length, torch.float32, heads=1)
    starts = documents(2, RANKS * length) if packed else None
    found = run(pattern, inputs, grad, starts, "triton")
    assert_pass_close(found, whole(pattern, inputs, grad, starts), same(grad))


def test_without_the_gradients_of_boundary_keys_only_dk_is_wrong():
    pattern = parse_pattern("lattice:2^k")
    inputs, grad = operands(32, torch.float64)
    expected = whole(pattern, inputs, grad, None)
    found = run(pattern, inputs, grad, None, "torch", send_key_gradients=False)
    wrong = [error > same(grad) for error in pass_errors(found, expected)]
    assert wrong == [False, False, True, False, False]
    assert pass_errors(found, expected)[2] > 1e6 * same(grad)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"offsets:2\^k: only lifetime patterns"):
        shards.shard_of("offsets:2^k", 1, 0, 8, 32)
    with pytest.raises(ValueError, match="beyond the total of 32"):
        shards.shard_of("lattice:2^k", 1, 30, 8, 32)
    shard = shards.shard_of("lattice:2^k", 2, 8, 8, 32, device=DEVICE)
    inputs = rows_of(operands(8, torch.float32)[0], 0, 8)
    with pytest.raises(ValueError, match=r"boundary_k must have shape \[B, H, S, K\] = \[2, 2, \d+, 6\]"):
        shards.forward_local(*inputs, shard, torch.zeros(2, 2, 3, 6))
