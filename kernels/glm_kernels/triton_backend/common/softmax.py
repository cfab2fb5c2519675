"""Device functions that forward and backward kernels share: loads, the joint softmax of a chunk, its inverse."""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
"""Exponentials are powers of two to the hardware; scores are multiplied by this along with their scale."""
ASSEMBLES = tl.constexpr(not triton.knobs.runtime.interpret)
"""The interpreter knows no assembly."""


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
def places(x, first, r, h, H, lane, WIDTH: tl.constexpr):
    """Where rows first + r of a tensor `[rows, H, WIDTH]` stand. Only the first one's place takes 64 bits."""
    return x + (first.to(tl.int64) * H + h) * WIDTH + (r * (H * WIDTH))[:, None] + lane[None, :]


@triton.jit
def gathered(x, rows, h, H, lane, WIDTH: tl.constexpr, PADDED: tl.constexpr, DTYPE: tl.constexpr):
    """Any rows of a tensor `[rows, H, WIDTH]`, in DTYPE; zeros for those below 0."""
    at = (rows.to(tl.int64) * H + h)[:, None] * WIDTH + lane[None, :]
    return tl.load(x + at, mask=lanes((rows >= 0)[:, None], lane, WIDTH, PADDED), other=0.0).to(DTYPE)


@triton.jit
def log2(x, DTYPE: tl.constexpr):
    """The hardware's logarithm (23 bits) where operands are in bfloat16: the exact one takes a tenth of a pass."""
    if DTYPE == tl.bfloat16 and ASSEMBLES:
        x = tl.inline_asm_elementwise(
            "lg2.approx.ftz.f32 $0, $1;", "=r,r", [x], dtype=tl.float32, is_pure=True, pack=1
        )  # fmt: skip
    else:
        x = tl.log2(x)
    return x


@triton.jit
def log_norm(top, total, OPERANDS: tl.constexpr, DTYPE: tl.constexpr):
    """The binary logarithm of a softmax denominator, `total` in units of 2^top, as `less` takes it."""
    return top.to(DTYPE) + log2(total, OPERANDS).to(DTYPE)


@triton.jit
def less(scores, norm):
    """scores − norm, where norm is the binary logarithm of a softmax denominator.

    All weights of a row share its rounding, which a float32 of some hundred does not keep below that of float32
    operands: then norm is float64, and is subtracted in two parts.
    """
    if norm.dtype == tl.float64:
        high = norm.to(tl.float32)
        scores = (scores - high) - (norm - high.to(tl.float64)).to(tl.float32)
    else:
        scores -= norm
    return scores


@triton.jit
def normalised_weights(
    q, k, k_old, d, rows, last, last_old, scale, C: tl.constexpr, S: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    """α `[C]`, Pᵀ `[C, C]`, P_Sᵀ `[S, C]`, and every row's softmax denominator, its maximum's logarithm and its rest.

    Row i's weights, on its input, on rows of its chunk and on older rows, stand in column i. They are computed that
    way round, since transposing a fresh product is not safe (Triton 3.4 to 3.7 on Hopper).
    """
    q_t, r = tl.trans(q), tl.arange(0, C)
    inside = tl.dot(k, q_t, input_precision=PRECISION) * (scale * LOG2_E)
    inside = tl.where((r[:, None] < r[None, :]) & (rows[None, :] <= last[:, None]), inside, float("-inf"))
    older = tl.dot(k_old, q_t, input_precision=PRECISION) * (scale * LOG2_E)
    older = tl.where(rows[None, :] <= last_old[:, None], older, float("-inf"))
    d *= LOG2_E
    top = tl.maximum(d, _columns(inside, older, C == S, True))
    inside = tl.exp2(inside - top[None, :])
    older = tl.exp2(older - top[None, :])
    own = tl.exp2(d - top)
    total = own + _columns(inside, older, C == S, False)
    norm = 1.0 / total
    return own * norm, inside * norm[None, :], older * norm[None, :], top, total


@triton.jit
def _columns(a, b, ALIKE: tl.constexpr, LARGEST: tl.constexpr):
    """The largest element, or the sum, of every column of two tiles; alike ones are put together first."""
    if ALIKE:
        found = tl.max(tl.maximum(a, b), 0) if LARGEST else tl.sum(a + b, 0)
    else:
        found = tl.maximum(tl.max(a, 0), tl.max(b, 0)) if LARGEST else tl.sum(a, 0) + tl.sum(b, 0)
    return found


@triton.jit
def weights_again(q, k, k_old, norm, rows, last, last_old, scale, C: tl.constexpr, PRECISION: tl.constexpr):
    """P `[C, C]` and P_S `[C, S]` from the binary logarithms of the denominators."""
    r = tl.arange(0, C)
    inside = less(tl.dot(q, tl.trans(k), input_precision=PRECISION) * (scale * LOG2_E), norm[:, None])
    inside = tl.where((r[None, :] < r[:, None]) & (rows[:, None] <= last[None, :]), inside, float("-inf"))
    older = less(tl.dot(q, tl.trans(k_old), input_precision=PRECISION) * (scale * LOG2_E), norm[:, None])
    older = tl.where(rows[:, None] <= last_old[None, :], older, float("-inf"))
    return tl.exp2(inside), tl.exp2(older)


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
