"""Device functions of the chained lifetime kernels: tiles of rows and slots, and numbers in 16 bits that stay exact.

What programs hand to one another (y, and z of the backward pass) is float16 in a *unit*, a power of two for each chunk:
eight times more precise than bfloat16, and numbers 2^28 times smaller than the largest one of their chunk still have
all digits. Where y needs more, it is the sum of two.
"""

from __future__ import annotations

import triton
import triton.language as tl

from glm_kernels.triton_backend.common.residuals import fine, refined
from glm_kernels.triton_backend.common.softmax import LOG2_E, from_state, lanes, less


@triton.jit
def row_places(rows, h, H, lane, WIDTH: tl.constexpr):
    """Offsets of any rows of head h in a tensor `[rows, H, WIDTH]`."""
    return (rows.to(tl.int64) * H + h)[:, None] * WIDTH + lane[None, :]


@triton.jit
def older_slots(occupant, occupant_last, segment, slot, before, SLOTS: tl.constexpr):
    """The row in each slot when a chunk begins (else −1) and its last reader, of rows < `before` or from a state.

    Also whether there is any, so that a tile of free slots can be skipped.
    """
    at = segment.to(tl.int64) * SLOTS + slot
    held = tl.load(occupant + at)
    held = tl.where((held < before) | (held == -2), held, -1)
    reader = tl.where(held == -1, -1, tl.load(occupant_last + at))
    return held, reader, tl.max((held != -1).to(tl.int32), 0) > 0


@triton.jit
def slots_of(rows, occupant, segment, TILE: tl.constexpr, TILES: tl.constexpr, SLOTS: tl.constexpr):
    """The slots in which rows stand when a chunk (`segment`) begins, −1 for those in none."""
    s = tl.arange(0, TILE)
    slot = rows * 0 - 1
    for tile in tl.range(0, TILES, num_stages=1):
        held = tl.load(occupant + segment.to(tl.int64) * SLOTS + tile * TILE + s)
        slot = tl.maximum(slot, tl.max(tl.where(held[None, :] == rows[:, None], (tile * TILE + s)[None, :], -1), 1))
    return slot


@triton.jit
def older_keys(
    k, state_k, held, sequence, h, H, slot, lane, STATE_SLOTS: tl.constexpr, K: tl.constexpr, K2: tl.constexpr
):  # fmt: skip
    """The keys `[TILE, K2]` of a tile of slots."""
    at, holds = row_places(held, h, H, lane, K), (held >= 0)[:, None]
    keys = tl.load(k + at, mask=lanes(holds, lane, K, K2), other=0.0)
    if STATE_SLOTS > 0:
        keys = from_state(keys, state_k, held, sequence, h, H, slot, lane, STATE_SLOTS, K, K2)
    return keys


@triton.jit
def older_outputs(
    y, residual, state_y, held, sequence, h, H, slot, lane,
    STATE_SLOTS: tl.constexpr, V: tl.constexpr, V2: tl.constexpr, WORK: tl.constexpr,
):  # fmt: skip
    """As `fine_in_units`, the outputs `[TILE, V2]` of a tile of slots, and the largest of them (0 without a state)."""
    at, mask = row_places(held, h, H, lane, V), lanes((held >= 0)[:, None], lane, V, V2)
    largest = 0.0
    if STATE_SLOTS > 0:
        outputs = fine(y + at, residual + at, mask)
        outputs = from_state(outputs, state_y, held, sequence, h, H, slot, lane, STATE_SLOTS, V, V2)
        largest = largest_of(outputs)
        unit, inverse = unit_of(largest, WORK)
        high, low = two_parts(outputs * inverse, WORK)
    else:
        high, low, unit = fine_in_units(y + at, residual + at, mask, WORK)
    return high, low, unit, largest


@triton.jit
def fine_in_units(y, residual, mask, WORK: tl.constexpr):
    """Outputs and their residuals at these places as sums of two numbers in WORK each, and the unit of all.

    Residuals do not change the unit, so that no float32 of a tile has to be kept until it is known.
    """
    DTYPE: tl.constexpr = y.dtype.element_ty
    rounded = tl.load(y, mask=mask, other=0.0)
    unit, inverse = unit_of(largest_of(rounded).to(tl.float32), WORK)
    outputs = rounded.to(tl.float32)
    if DTYPE != tl.float32:
        outputs = refined(outputs, tl.load(residual, mask=mask, other=0), DTYPE)
    high, low = two_parts(outputs * inverse, WORK)
    return high, low, unit


@triton.jit
def two_parts(x, WORK: tl.constexpr):
    """x, rounded to WORK, and what is missing (nothing if WORK is float32)."""
    high = x.to(WORK)
    return high, (x - high.to(tl.float32)).to(WORK)


@triton.jit
def unit_of(largest, WORK: tl.constexpr):
    """The unit in which numbers up to `largest` are worked with, and its inverse: 1 unless WORK is float16."""
    unit, inverse = 1.0, 1.0
    if WORK == tl.float16:
        exponent = tl.minimum(tl.maximum((largest.to(tl.int32, bitcast=True) >> 23) & 255, 14), 253)
        unit = ((exponent - 13) << 23).to(tl.float32, bitcast=True)
        inverse = ((267 - exponent) << 23).to(tl.float32, bitcast=True)
    return unit, inverse


@triton.jit
def largest_of(x):
    """The largest magnitude in a tile."""
    return tl.max(tl.max(tl.abs(x), 1), 0)


@triton.jit
def in_units(x, WORK: tl.constexpr):
    """A tile in WORK, and its unit."""
    unit = 1.0
    if WORK == tl.float16:
        unit, inverse = unit_of(largest_of(x), WORK)
        x = x * inverse
    return x.to(WORK), unit


@triton.jit
def exact_dot(a, b, acc, PRECISION: tl.constexpr):
    """acc + a · b of an fp32 `a` whose rounding to b's dtype is made good by a second product with what it cut off."""
    if b.dtype == tl.float32:
        acc = tl.dot(a, b, acc=acc, input_precision=PRECISION)
    else:
        high = a.to(b.dtype)
        low = (a - high.to(tl.float32)).to(b.dtype)
        acc = tl.dot(high, b, acc=acc)
        acc = tl.dot(low, b, acc=acc)
    return acc


@triton.jit
def rounded_dot(a, b, acc, PRECISION: tl.constexpr):
    """acc + a · b of which one is an operand and the other in fp32, rounded only where operands are bfloat16."""
    if (a.dtype == tl.bfloat16) or (b.dtype == tl.bfloat16):
        acc = tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16), acc=acc)
    else:
        acc = tl.dot(a.to(tl.float32), b.to(tl.float32), acc=acc, input_precision=PRECISION)
    return acc


@triton.jit
def weights_transposed(q, k, norm, reads, scale):
    """The weights of rows on keys, `[keys, rows]`, from the binary logarithms of the rows' denominators.

    It is the way round in which no product need be transposed: Triton 3.4 to 3.7 on Hopper gave wrong results for
    products of transposed accumulators.
    """
    scores = tl.dot(k, tl.trans(q), input_precision="ieee") * (scale * LOG2_E)
    return tl.where(reads, tl.exp2(less(scores, norm[None, :])), 0.0)
