"""Device functions of the chained lifetime kernels: tiles of rows and slots, and numbers in 16 bits that stay exact.

What programs hand to one another (y, and z of the backward pass) is float16 in a *unit*, a power of two for each chunk:
eight times more precise than bfloat16, and numbers 2^28 times smaller than the largest one of their chunk still have
all digits. Where y needs more, it is the sum of two.
"""

from __future__ import annotations

import triton
import triton.language as tl

from glm_kernels.triton_backend.common.numerics import fine, fine_in_units, largest_of, parts, unit_in
from glm_kernels.triton_backend.common.softmax import LOG2_E, less
from glm_kernels.triton_backend.common.tiles import from_state, lanes, load_slots, token_places

HEADROOM = tl.constexpr(1)
"""Of the units in which y and z are handed on: one more power of two than the largest of what they are averages of."""


@triton.jit
def older_slots(occupant, occupant_last, segment, slot, before, CASE: tl.constexpr):
    """The row in each slot when a chunk begins (else −1) and its last reader, of rows < `before` or from a state.

    Also whether there is any, so that a tile of free slots can be skipped.
    """
    at = segment.to(tl.int64) * CASE.SLOTS + slot
    held = tl.load(occupant + at)
    held = tl.where((held < before) | (held == -2), held, -1)
    reader = tl.where(held == -1, -1, tl.load(occupant_last + at))
    return held, reader, tl.max((held != -1).to(tl.int32), 0) > 0


@triton.jit
def slots_of(rows, occupant, segment, CASE: tl.constexpr):
    """The slots in which rows stand when a chunk (`segment`) begins, −1 for those in none."""
    s = tl.arange(0, CASE.TILE)
    slot = rows * 0 - 1
    for tile in tl.range(0, CASE.TILES, num_stages=1):
        held = tl.load(occupant + segment.to(tl.int64) * CASE.SLOTS + tile * CASE.TILE + s)
        found = tl.where(held[None, :] == rows[:, None], (tile * CASE.TILE + s)[None, :], -1)
        slot = tl.maximum(slot, tl.max(found, 1))
    return slot


@triton.jit
def older_keys(k, state_k, held, sequence, h, H, slot, lane, CASE: tl.constexpr):
    """The keys `[TILE, K2]` of a tile of slots."""
    return load_slots(
        k, state_k, held, sequence, h, H, slot, lane, CASE.STATE_SLOTS, CASE.K, CASE.K2, k.dtype.element_ty
    )


@triton.jit
def older_outputs(y, residual, state_y, held, sequence, h, H, slot, lane, CASE: tl.constexpr):
    """As `fine_in_units`, the outputs `[TILE, V2]` of a tile of slots."""
    at, mask = token_places(held, h, H, lane, CASE.V), lanes((held >= 0)[:, None], lane, CASE.V, CASE.V2)
    if CASE.STATE_SLOTS > 0:
        outputs = fine(y + at, residual + at, mask)
        outputs = from_state(outputs, state_y, held, sequence, h, H, slot, lane, CASE.STATE_SLOTS, CASE.V, CASE.V2)
        unit, inverse = unit_in(largest_of(outputs), HEADROOM, CASE.WORK)
        high, low = parts(outputs * inverse, CASE.WORK, False)
    else:
        high, low, unit = fine_in_units(y + at, residual + at, HEADROOM, mask, CASE.WORK)
    return high, low, unit


@triton.jit
def older_in_units(y, residual, state_y, held, sequence, h, H, slot, lane, into_units, CASE: tl.constexpr):
    """The outputs `[TILE, V2]` of a tile of slots, in WORK and in units."""
    at, mask = token_places(held, h, H, lane, CASE.V), lanes((held >= 0)[:, None], lane, CASE.V, CASE.V2)
    outputs = fine(y + at, residual + at, mask)
    if CASE.STATE_SLOTS > 0:
        outputs = from_state(outputs, state_y, held, sequence, h, H, slot, lane, CASE.STATE_SLOTS, CASE.V, CASE.V2)
    return (outputs * into_units).to(CASE.WORK)


@triton.jit
def weights_transposed(q, k, norm, reads, scale):
    """The weights of rows on keys, `[keys, rows]`, from the binary logarithms of the rows' denominators.

    It is the way round in which no product need be transposed: Triton 3.4 to 3.7 on Hopper gave wrong results for
    products of transposed accumulators.
    """
    scores = tl.dot(k, tl.trans(q), input_precision="ieee") * (scale * LOG2_E)
    return tl.where(reads, tl.exp2(less(scores, norm[None, :])), 0.0)
