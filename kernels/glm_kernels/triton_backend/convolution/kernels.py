"""The short convolution in Triton: one launch forward, and two backward, of which the first computes sums again.

A program has a tile of tokens and channels. Tokens before and after it are those of its neighbours, and all that they
share is read from memory once: what a program reads again is in its cache still.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def convolve(
    x, weight, positions, before, y, T, D, stride,
    WIDTH: tl.constexpr, CONTINUED: tl.constexpr, SILU: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of T, tiles of D, B)."""
    b = tl.program_id(2).to(tl.int64)
    t = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    lane = tl.program_id(1) * LANES + tl.arange(0, LANES)
    place = tl.load(positions + b * stride + t, mask=t < T, other=-1)
    out = _sums(x, weight, before, place, b, t, lane, T, D, WIDTH, CONTINUED)
    if SILU:
        out *= tl.sigmoid(out)
    at = (b * T + t)[:, None] * D + lane[None, :]
    tl.store(y + at, out.to(y.dtype.element_ty), mask=(t < T)[:, None] & (lane < D)[None, :])


@triton.jit
def convolve_slopes(
    grad, x, weight, positions, before, slopes, sums, T, D, stride,
    WIDTH: tl.constexpr, CONTINUED: tl.constexpr, SILU: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of T, tiles of D, B). slopes `[B, T, D]`: gradients of the sums before SiLU, not stored without it.

    sums fp32 `[B · tiles, WIDTH, D]`: what the gradient of each weight is the sum of.
    """
    b = tl.program_id(2).to(tl.int64)
    t = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    lane = tl.program_id(1) * LANES + tl.arange(0, LANES)
    mask = (t < T)[:, None] & (lane < D)[None, :]
    place = tl.load(positions + b * stride + t, mask=t < T, other=-1)
    at = (b * T + t)[:, None] * D + lane[None, :]
    slope = tl.load(grad + at, mask=mask, other=0.0).to(tl.float32)
    if SILU:
        out = _sums(x, weight, before, place, b, t, lane, T, D, WIDTH, CONTINUED)
        opened = tl.sigmoid(out)
        slope *= opened * (1 + out * (1 - opened))
        tl.store(slopes + at, slope.to(slopes.dtype.element_ty), mask=mask)
    sums += (b * tl.num_programs(0) + tl.program_id(0)) * WIDTH * D + lane
    for back in tl.static_range(WIDTH):
        rows = _rows(x, before, place, back, b, t, lane, T, D, WIDTH, CONTINUED)
        tl.store(sums + back * D, tl.sum(slope * rows, 0), mask=lane < D)


@triton.jit
def convolve_back(
    slopes, weight, positions, dx, dbefore, T, D, stride,
    WIDTH: tl.constexpr, CONTINUED: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Grid (tiles, tiles of D, B): tiles of T, and of the tokens before if there are any."""
    b = tl.program_id(2).to(tl.int64)
    t = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    if CONTINUED:
        t -= WIDTH - 1
    lane = tl.program_id(1) * LANES + tl.arange(0, LANES)
    known = (lane < D)[None, :]
    given = tl.zeros((ROWS, LANES), tl.float32)
    for shift in tl.static_range(WIDTH):
        later = t + shift
        inside = (later >= 0) & (later < T)
        place = tl.load(positions + b * stride + later, mask=inside, other=-1)
        at = (b * T + later)[:, None] * D + lane[None, :]
        slope = tl.load(slopes + at, mask=(inside & (place >= shift))[:, None] & known, other=0.0).to(tl.float32)
        given += slope * _tap(weight, shift, lane, D)[None, :]
    at = (b * T + t)[:, None] * D + lane[None, :]
    tl.store(dx + at, given.to(dx.dtype.element_ty), mask=((t >= 0) & (t < T))[:, None] & known)
    if CONTINUED:
        at = (b * (WIDTH - 1) + t + WIDTH - 1)[:, None] * D + lane[None, :]
        tl.store(dbefore + at, given.to(dbefore.dtype.element_ty), mask=(t < 0)[:, None] & known)


@triton.jit
def _sums(x, weight, before, place, b, t, lane, T, D, WIDTH: tl.constexpr, CONTINUED: tl.constexpr):
    """x_t + Σ_s weight_s x_{t−s} of tokens t that are the `place`-th of their document, −1 if there are none."""
    out = tl.zeros((t.shape[0], lane.shape[0]), tl.float32)
    for back in tl.static_range(WIDTH):
        rows = _rows(x, before, place, back, b, t, lane, T, D, WIDTH, CONTINUED)
        out += rows * _tap(weight, back, lane, D)[None, :]
    return out


@triton.jit
def _rows(x, before, place, back: tl.constexpr, b, t, lane, T, D, WIDTH: tl.constexpr, CONTINUED: tl.constexpr):
    """x_{t−back}, zeros where that is of another document."""
    earlier, known = t - back, (lane < D)[None, :]
    inside = (earlier >= 0) & (earlier < T)
    at = (b * T + earlier)[:, None] * D + lane[None, :]
    rows = tl.load(x + at, mask=inside[:, None] & known, other=0.0).to(tl.float32)
    if CONTINUED:
        at = (b * (WIDTH - 1) + earlier + WIDTH - 1)[:, None] * D + lane[None, :]
        there = (earlier < 0) & (earlier > -WIDTH)
        rows += tl.load(before + at, mask=there[:, None] & known, other=0.0).to(tl.float32)
    return tl.where((place >= back)[:, None], rows, 0.0)


@triton.jit
def _tap(weight, back: tl.constexpr, lane, D):
    """The weight of the token `back` before, and of the token itself what is added to it."""
    tap = tl.load(weight + back * D + lane, mask=lane < D, other=0.0).to(tl.float32)
    if back == 0:
        tap += 1.0
    return tap
