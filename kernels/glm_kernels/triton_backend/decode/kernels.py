"""One token of decoding: kernels that read a state in place and write the token's row into it.

All of it can be captured in a CUDA graph and replayed: positions are read and advanced on the device, and which slots
a row reads is looked up in tables that cover every position a document may reach.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from glm_kernels.triton_backend.decode.overlap import begin_after_others

BY_MASK = tl.constexpr(0)
"""`reads [horizon, words]` and `slot_of [horizon]` are `read_masks` and the slots of a lifetime pattern."""
BY_POSITION = tl.constexpr(1)
"""A row reads every row before it; the row at position p has slot p."""
BY_DISTANCE = tl.constexpr(2)
"""`reads [entries]`: ascending distances at which a row reads; the row at position p has slot p."""


class Strides(NamedTuple):
    """Of operands, states and angles: of documents (n), heads (h) and slots (s)."""

    q_n: int
    q_h: int
    k_n: int
    k_h: int
    v_n: int
    v_h: int
    d_n: int
    d_h: int
    state_k_n: int
    state_k_h: int
    state_k_s: int
    state_y_n: int
    state_y_h: int
    state_y_s: int
    angle_n: int


@triton.jit
def step_pass(
    q, k, v, d, y, state_k, state_y, position, reads, slot_of, partial, cos, sin,
    strides, H, room, entries, words, period, scale,
    CASE: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Grid (H, N, PARTS); every part reads BLOCKS · BLOCK of the `entries` that a row may read.

    ROTATED: q and k are turned by the angles whose `cos`, `sin` are `[N or 1, K / 2]`. ATTENTION: the own row weighs as
    its query and key say and not as d does, and what is kept for later rows is v and not y; GROUP heads have keys,
    values and slots together.
    A single part finishes the row: y `[N, H, V]`, the slot of the row, the position; but not of a group, whose slot
    another head may yet have to read. Of several each writes its weighted sum, the sum of its weights and the score
    they are relative to, into `partial [N, H, PARTS, V + 2]`; the own row belongs to the first. strides: `x_n`, `x_h`,
    `x_s` of documents, heads and slots; of the last dimension they are 1.
    """
    begin_after_others(OVERLAP)
    h, n, part = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    g = h // CASE.GROUP
    vv = tl.arange(0, CASE.V2)
    kk = tl.arange(0, CASE.K2)
    at = _seen(position, n)
    there = at < room
    place = _folded(at, period)
    cos, sin = cos + n * strides.angle_n, sin + n * strides.angle_n
    q_row = _turned(q + n * strides.q_n + h * strides.q_h, cos, sin, CASE.K, CASE.K2, CASE.ROTATED) * scale
    value = tl.load(v + n * strides.v_n + g * strides.v_h + vv, mask=vv < CASE.V, other=0.0).to(tl.float32)
    if CASE.ATTENTION:
        own = tl.sum(q_row * _turned(k + n * strides.k_n + g * strides.k_h, cos, sin, CASE.K, CASE.K2, CASE.ROTATED), 0)
    else:
        own = tl.load(d + n * strides.d_n + h * strides.d_h).to(tl.float32)
    top = tl.where(part == 0, own, float("-inf"))
    total = tl.where(part == 0, 1.0, 0.0)
    mixed = tl.where(part == 0, value, 0.0)
    for block in range(CASE.BLOCKS):
        entry = (part * CASE.BLOCKS + block) * CASE.BLOCK + tl.arange(0, CASE.BLOCK)
        if CASE.MODE == BY_MASK:
            word = tl.load(reads + place * words + entry // 32, mask=there & (entry < entries), other=0)
            slot, read = entry, ((word >> (entry % 32)) & 1) != 0
        elif CASE.MODE == BY_POSITION:
            slot, read = entry, there & (entry < at)
        else:
            slot = at - tl.load(reads + entry, mask=entry < entries, other=0)
            read = there & (entry < entries) & (slot >= 0)
        # Slots that are not read may hold anything, NaN included: they are not even loaded.
        keys = tl.load(
            state_k + n * strides.state_k_n + g * strides.state_k_h
            + slot.to(tl.int64)[:, None] * strides.state_k_s + kk[None, :],
            mask=read[:, None] & (kk < CASE.K)[None, :], other=0.0,
        ).to(tl.float32)  # fmt: skip
        rows = tl.load(
            state_y + n * strides.state_y_n + g * strides.state_y_h
            + slot.to(tl.int64)[:, None] * strides.state_y_s + vv[None, :],
            mask=read[:, None] & (vv < CASE.V)[None, :], other=0.0,
        ).to(tl.float32)  # fmt: skip
        score = tl.where(read, tl.sum(keys * q_row[None, :], 1), float("-inf"))
        higher = tl.maximum(top, tl.max(score, 0))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        weight, fade = tl.exp(score - base), tl.exp(top - base)
        total = total * fade + tl.sum(weight, 0)
        mixed = mixed * fade + tl.sum(weight[:, None] * rows, 0)
        top = higher
    if CASE.PARTS == 1 and CASE.GROUP == 1:
        _finish(
            mixed / total, value, k + n * strides.k_n + g * strides.k_h, cos, sin, y, state_k, state_y, position,
            slot_of, at, place, n, h, strides, H, room, CASE,
        )  # fmt: skip
    else:
        to = partial + ((n * H + h) * CASE.PARTS + part) * (CASE.V + 2)
        tl.store(to + vv, mixed, mask=vv < CASE.V)
        tl.store(to + CASE.V, total)
        tl.store(to + CASE.V + 1, top)


@triton.jit
def combine_pass(
    k, v, y, state_k, state_y, position, slot_of, partial, cos, sin,
    strides, H, room, period,
    CASE: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Grid (H, N): finishes rows from the PARTS (a power of two) parts of each."""
    begin_after_others(OVERLAP)
    h, n = tl.program_id(0), tl.program_id(1).to(tl.int64)
    parts, vv = tl.arange(0, CASE.PARTS), tl.arange(0, CASE.V2)
    at = _seen(position, n)
    g = h // CASE.GROUP
    value = tl.load(v + n * strides.v_n + g * strides.v_h + vv, mask=vv < CASE.V, other=0.0).to(tl.float32)
    of_part = partial + ((n * H + h) * CASE.PARTS + parts) * (CASE.V + 2)
    mixed = tl.load(of_part[:, None] + vv[None, :], mask=(parts >= 0)[:, None] & (vv < CASE.V)[None, :], other=0.0)
    total, top = tl.load(of_part + CASE.V), tl.load(of_part + CASE.V + 1)
    fade = tl.exp(top - tl.max(top, 0))
    row = tl.sum(fade[:, None] * mixed, 0) / tl.sum(fade * total, 0)
    _finish(
        row, value, k + n * strides.k_n + g * strides.k_h, cos + n * strides.angle_n, sin + n * strides.angle_n, y,
        state_k, state_y, position, slot_of, at, _folded(at, period), n, h, strides, H, room, CASE,
    )  # fmt: skip


@triton.jit
def _seen(position, n):
    """Tokens that document n has seen. The upper half of its counter counts heads, as `_finish` says."""
    return tl.load(position + n).to(tl.int32)


@triton.jit
def _folded(at, period):
    """A position where tables of a pattern that repeats have it."""
    if period > 0:
        at = tl.where(at >= 2 * period, period + at % period, at)
    return at


@triton.jit
def _turned(x, cos, sin, K: tl.constexpr, K2: tl.constexpr, ROTATED: tl.constexpr):
    """A row `[K]` in fp32, if ROTATED with numbers i and i + K / 2 turned by an angle as `rotation` says."""
    kk = tl.arange(0, K2)
    row = tl.load(x + kk, mask=kk < K, other=0.0).to(tl.float32)
    if ROTATED:
        early = kk < K // 2
        pair = tl.where(early, kk, kk - K // 2)
        partner = tl.load(x + tl.where(early, kk + K // 2, kk - K // 2), mask=kk < K, other=0.0).to(tl.float32)
        along, across = tl.load(cos + pair, mask=kk < K, other=0.0), tl.load(sin + pair, mask=kk < K, other=0.0)
        row = row * along + tl.where(early, -partner, partner) * across
        row = row.to(x.dtype.element_ty).to(tl.float32)
    return row


@triton.jit
def _finish(
    row, value, k, cos, sin, y, state_k, state_y, position, slot_of, at, place, n, h,
    strides, H, room,
    CASE: tl.constexpr,
):  # fmt: skip
    """Stores a head's output and puts key and output (or value) in the row's slot, the same for all heads of a group;
    the last head advances the position.

    Without room for the row the output is NaN, and the state is left alone.
    """
    kk, vv = tl.arange(0, CASE.K2), tl.arange(0, CASE.V2)
    there = at < room
    row = tl.where(there, row, float("nan"))
    key = _turned(k, cos, sin, CASE.K, CASE.K2, CASE.ROTATED)
    kept = row
    if CASE.ATTENTION:
        kept = value
    slot = at
    if CASE.MODE == BY_MASK:
        slot = tl.load(slot_of + place, mask=there, other=0)
    slot = slot.to(tl.int64)
    # The slot may be one that the row has just read for the last time, in another thread.
    tl.debug_barrier()
    tl.store(y + (n * H + h) * CASE.V + vv, row.to(y.dtype.element_ty), mask=vv < CASE.V)
    g = h // CASE.GROUP
    to_k = state_k + n * strides.state_k_n + g * strides.state_k_h + slot * strides.state_k_s
    to_y = state_y + n * strides.state_y_n + g * strides.state_y_h + slot * strides.state_y_s
    tl.store(to_k + kk, key.to(state_k.dtype.element_ty), mask=there & (kk < CASE.K))
    tl.store(to_y + vv, kept.to(state_y.dtype.element_ty), mask=there & (vv < CASE.V))
    # Heads are counted in the upper half of the position: only when all have read the lower half may it change.
    one = tl.full((), 1 << 32, tl.int64)
    before = tl.atomic_add(position + n, one, sem="relaxed", scope="gpu")
    if (before >> 32) == H - 1:
        tl.store(position + n, at.to(tl.int64) + 1)


@triton.jit
def ssm_step_pass(
    q, k, v, log_decay, y, state, q_n, q_h, k_n, k_h, v_n, v_h, d_n, d_h, state_n, state_h, state_k,
    H, scale, K: tl.constexpr, V: tl.constexpr, K2: tl.constexpr, OVERLAP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (V / BLOCK, H, N): h ← exp(log_decay) h + k vᵀ in the state `[N, H, K, V]`, and y = scale · qᵀ h."""
    begin_after_others(OVERLAP)
    h, n = tl.program_id(1), tl.program_id(2).to(tl.int64)
    kk, vv = tl.arange(0, K2), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    q_row = tl.load(q + n * q_n + h * q_h + kk, mask=kk < K, other=0.0).to(tl.float32) * scale
    key = tl.load(k + n * k_n + h * k_h + kk, mask=kk < K, other=0.0).to(tl.float32)
    value = tl.load(v + n * v_n + h * v_h + vv, mask=vv < V, other=0.0).to(tl.float32)
    decay = tl.exp(tl.load(log_decay + n * d_n + h * d_h).to(tl.float32))
    at = state + n * state_n + h * state_h + kk[:, None] * state_k + vv[None, :]
    inside = (kk < K)[:, None] & (vv < V)[None, :]
    held = decay * tl.load(at, mask=inside, other=0.0) + key[:, None] * value[None, :]
    tl.store(at, held, mask=inside)
    tl.store(y + (n * H + h) * V + vv, tl.sum(q_row[:, None] * held, 0).to(y.dtype.element_ty), mask=vv < V)
