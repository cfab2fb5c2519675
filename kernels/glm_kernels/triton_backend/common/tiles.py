"""Tiles of tokens `[C, lanes]` and of slots `[S, lanes]`: where they stand in tensors `[tokens, H, width]`, and loads.

A tile's lanes are padded to a power of two. `first` and `r` say which tokens, numbered through the batch; `h` which of
H heads.
"""

from __future__ import annotations

import triton
import triton.language as tl

_NARROWEST = 64


def padded_width(width: int) -> int:
    """Lanes of the tiles of chained kernels for rows of `width` numbers.

    Narrow rows are padded: of tiles of 16 lanes Triton 3.6 made code that read outside of its tensors on an H100 (an
    illegal memory access), though the same kernels are right in its interpreter.
    """
    return max(_NARROWEST, 1 << (width - 1).bit_length())


def product_width(width: int) -> int:
    """Lanes of a tile for rows of `width` numbers that tensor cores can work with."""
    return max(16, 1 << (width - 1).bit_length())


@triton.jit
def segment_at(segments, n):
    """Of segment n of `Tables.segments`: first token, token after its sequence's last, number within it, sequence."""
    begin, end = tl.load(segments + n * 4), tl.load(segments + n * 4 + 1)
    within, sequence = tl.load(segments + n * 4 + 2), tl.load(segments + n * 4 + 3)
    return begin, end, within, sequence


@triton.jit
def lanes(there, lane, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """The mask of a tile whose lanes were padded to a power of two. None is added where none is needed."""
    mask = there
    if WIDTH != PADDED:
        mask = there & (lane < WIDTH)[None, :]
    return mask


@triton.jit
def places(x, first, r, h, H, lane, WIDTH: tl.constexpr):
    """Where rows first + r of a tensor `[rows, H, WIDTH]` stand. Only the first one's place takes 64 bits."""
    return x + (first.to(tl.int64) * H + h) * WIDTH + (r * (H * WIDTH))[:, None] + lane[None, :]


@triton.jit
def load_tokens(x, first, r, h, H, lane, there, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Tokens first + r of a tensor `[tokens, H, WIDTH]`; zeros where they are not `there [C, 1]`."""
    return tl.load(places(x, first, r, h, H, lane, WIDTH), mask=lanes(there, lane, WIDTH, PADDED), other=0.0)


@triton.jit
def store_tokens(x, first, r, h, H, lane, there, tile, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """The counterpart of `load_tokens`, in the dtype of x."""
    mask = lanes(there, lane, WIDTH, PADDED)
    tl.store(places(x, first, r, h, H, lane, WIDTH), tile.to(x.dtype.element_ty), mask=mask)


@triton.jit
def token_places(tokens, h, H, lane, WIDTH: tl.constexpr):
    """Offsets of any tokens of head h in a tensor `[tokens, H, WIDTH]`."""
    return (tokens.to(tl.int64) * H + h)[:, None] * WIDTH + lane[None, :]


@triton.jit
def load_slots(
    x, state, held, sequence, h, H, slot, lane,
    STATE_SLOTS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """What a tile of slots holds `[S, PADDED]`, in DTYPE: the tokens `held` of x `[tokens, H, WIDTH]`, zeros for free
    slots, and rows of the `state` for what came with it (if there is one: STATE_SLOTS > 0)."""
    at = token_places(held, h, H, lane, WIDTH)
    tile = tl.load(x + at, mask=lanes((held >= 0)[:, None], lane, WIDTH, PADDED), other=0.0).to(DTYPE)
    if STATE_SLOTS > 0:
        tile = from_state(tile, state, held, sequence, h, H, slot, lane, STATE_SLOTS, WIDTH, PADDED)
    return tile


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
