"""Device functions that forward and backward kernels share: loads, the joint softmax of a chunk, its inverse."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def lanes(there, lane, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """The mask of a tile whose lanes were padded to a power of two. None is added where none is needed."""
    mask = there
    if WIDTH != PADDED:
        mask = there & (lane < WIDTH)[None, :]
    return mask


@triton.jit
def from_state(
    tile, state, held, sequence, h, H, slot, lane,
    STATE_SLOTS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """A tile of slots `[S, PADDED]` with the rows that came with the initial state (occupant −2) put in."""
    carried = (held == -2)[:, None]
    at = ((sequence.to(tl.int64) * H + h) * STATE_SLOTS + slot)[:, None] * WIDTH + lane[None, :]
    kept = tl.load(state + at, mask=lanes(carried, lane, WIDTH, PADDED), other=0.0)
    return tl.where(carried, kept.to(tile.dtype), tile)


@triton.jit
def chunk_weights(q, k, k_old, d, rows, last, last_old, scale, C: tl.constexpr, PRECISION: tl.constexpr):
    """α `[C]`, P `[C, C]` and P_S `[C, S]`: row i's weights on its input, on rows of its chunk and on older rows."""
    r = tl.arange(0, C)
    inside = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    inside = tl.where((r[None, :] < r[:, None]) & (rows[:, None] <= last[None, :]), inside, float("-inf"))
    older = tl.dot(q, tl.trans(k_old), input_precision=PRECISION) * scale
    older = tl.where(rows[:, None] <= last_old[None, :], older, float("-inf"))
    top = tl.maximum(d, tl.maximum(tl.max(inside, 1), tl.max(older, 1)))
    inside = tl.exp(inside - top[:, None])
    older = tl.exp(older - top[:, None])
    own = tl.exp(d - top)
    norm = 1.0 / (own + tl.sum(inside, 1) + tl.sum(older, 1))
    return own * norm, inside * norm[:, None], older * norm[:, None]


@triton.jit
def chunk_weights_transposed(q, k, k_old, d, rows, last, last_old, scale, C: tl.constexpr, PRECISION: tl.constexpr):
    """Pᵀ `[C, C]` and P_Sᵀ `[S, C]`: computed that way round, since transposing a fresh product is not safe.

    (Triton 3.4 to 3.7 on Hopper gave wrong results for products of transposed accumulators.)
    """
    r = tl.arange(0, C)
    q_t = tl.trans(q)
    inside = tl.dot(k, q_t, input_precision=PRECISION) * scale
    inside = tl.where((r[:, None] < r[None, :]) & (rows[None, :] <= last[:, None]), inside, float("-inf"))
    older = tl.dot(k_old, q_t, input_precision=PRECISION) * scale
    older = tl.where(rows[None, :] <= last_old[:, None], older, float("-inf"))
    top = tl.maximum(d, tl.maximum(tl.max(inside, 0), tl.max(older, 0)))
    inside = tl.exp(inside - top[None, :])
    older = tl.exp(older - top[None, :])
    norm = 1.0 / (tl.exp(d - top) + tl.sum(inside, 0) + tl.sum(older, 0))
    return inside * norm[None, :], older * norm[None, :]


@triton.jit
def inverse_less_identity(p, DOUBLINGS: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr):
    """(I − P)^-1 − I of a strictly triangular P of 2^DOUBLINGS rows, by (I + P)(I + P²)(I + P⁴)…

    Without the identity, whose product with a right-hand side need not be rounded to the operand dtype.
    """
    power = p
    total = p
    for _ in tl.static_range(DOUBLINGS - 1):
        factor = power.to(DTYPE)
        power = tl.dot(factor, factor, input_precision=PRECISION)
        total = total + power + tl.dot(total.to(DTYPE), power.to(DTYPE), input_precision=PRECISION)
    return total
