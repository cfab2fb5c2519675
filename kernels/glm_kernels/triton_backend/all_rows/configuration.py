"""How the kernels of `all_rows` are configured, and which distances they read over: by shape, never by timing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton.language as tl
from torch import Tensor

from glm_kernels.device_cache import kept_on_device
from glm_kernels.patterns import Dense, Offsets, Pattern
from glm_kernels.triton_backend.all_rows.tiles import MARGIN
from glm_kernels.triton_backend.common.constants import Constants

FAR_COST = 1.5
"""Of a far offset, in tiles: measured on an H100."""
_FEW_HEADS, _MANY_HEADS = 16, 64


def work_dtype(operands: torch.dtype) -> torch.dtype:
    """Of y and its adjoint while they are worked with, as precise as they can be told from their rounded results: fp16
    (in units) has three digits more than bfloat16."""
    return torch.float16 if operands == torch.bfloat16 else torch.float32


@dataclass(frozen=True)
class Pass:
    """Rows of a chunk and of a tile, warps and pipeline stages of a launch."""

    chunk: int
    tile: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Configuration:
    """The chains share their chunk."""

    source: Pass
    adjoint: Pass
    gradient: Pass


def configuration(dtype: torch.dtype, width: int, dense: bool) -> Configuration:
    """By shape, never by timing. Measured on an H100 with Triton 3.6."""
    if dtype == torch.float32:
        # Products without tensor cores: wide rows need the registers of more warps.
        small = Pass(16, 16, 8 if width > 128 else 4, 1)
        return Configuration(small, small, small)
    if dtype == torch.float16:
        exact = Pass(32, 32, 4, 1)
        return Configuration(exact, exact, exact)
    if width > 128:
        wide = Pass(64, 32, 4, 1)
        return Configuration(wide, wide, wide)
    if dense:
        return Configuration(Pass(64, 64, 4, 3), Pass(64, 64, 4, 3), Pass(128, 64, 8, 3))
    return Configuration(Pass(64, 64, 4, 2), Pass(64, 64, 4, 2), Pass(64, 64, 4, 2))


@dataclass(frozen=True, eq=False)
class Case(Constants):
    """What the kernels that work on chunks are compiled for."""

    C: tl.constexpr
    """Rows of a chunk."""
    BLOCK: tl.constexpr
    """Rows of a tile."""
    UNIT: tl.constexpr
    """Rows of a chunk of the chains, which tables of far offsets and of documents' ends count in."""
    STAGES: tl.constexpr
    """Of the loops over tiles."""
    DENSE: tl.constexpr
    """Rows read all rows before them, and not those at some offsets."""
    FAR: tl.constexpr
    """There are far offsets."""
    DOCUMENTS: tl.constexpr
    """Rows lie in documents, and read none of other ones."""
    K: tl.constexpr
    V: tl.constexpr
    K2: tl.constexpr
    """Lanes of a tile of keys: K, padded."""
    V2: tl.constexpr
    PRECISION: tl.constexpr
    """Of products of float32 tiles."""
    WHOLE: tl.constexpr = False
    """C divides the number of rows."""
    READERS: tl.constexpr = False
    """`gradient_pass` goes through the rows that read a chunk, and not through those that it reads."""


@dataclass(frozen=True)
class Reach:
    """Which distances rows read over, for the kernels."""

    near: int
    """Offsets below it are near."""
    near_bits: Tensor
    """int64 `[2, distances]`: which rows of a tile are at near offsets, as `readable` takes it."""
    far: Tensor
    """int32, ascending: the other offsets, each at least three chunks."""
    far_before: Tensor
    """int32: entry x is the number of far offsets below x chunks."""
    dense: bool
    together: int
    """Heads that pass through a chain side by side. Many let its links overlap, few leave their rows in the L2 cache,
    from which rows that read much profit."""


@kept_on_device(64)
def reach_of(pattern: Pattern, length: int, shape: Configuration, device: torch.device) -> Reach:
    """Near sources end where so few offsets are left that they cost less one by one than tile by tile."""
    if isinstance(pattern, Dense):
        none = torch.zeros(1, dtype=torch.int32, device=device)
        return Reach(0, none.long().expand(2, 1), none, none, True, _FEW_HEADS)
    assert isinstance(pattern, Offsets)
    offsets = pattern.offsets(length)
    # The cost of taking the first s offsets as near, each tile and offset counted for the rows that it serves.
    served = 1 - offsets / length
    chunk, tile = shape.source.chunk, shape.source.tile
    tiles = ((offsets - chunk) / tile).clamp(min=0).ceil()
    spent = torch.cat([tiles.new_zeros(1), tiles - tiles.square() * tile / (2 * length)])
    left = torch.cat([served.flip(0).cumsum(0).flip(0), served.new_zeros(1)])
    smallest = int(torch.searchsorted(offsets, 3 * chunk))
    split = smallest + int((spent + FAR_COST * left)[smallest:].argmin())
    near = int(offsets[split - 1]) + 1 if split else 1
    near_bits = _near_bits(offsets[:split], near, shape)
    bounds = torch.arange(-(-length // chunk) + 3, device="cpu") * chunk
    far_before = torch.searchsorted(offsets[split:], bounds)
    together = _FEW_HEADS if len(offsets) > 32 else _MANY_HEADS
    far = torch.cat([offsets[split:], offsets.new_zeros(1)])
    return Reach(near, near_bits.to(device), far.int().to(device), far_before.int().to(device), False, together)


def _near_bits(offsets: Tensor, near: int, shape: Configuration) -> Tensor:
    margin, widest = MARGIN.value, 64
    assert all(p.chunk <= margin and max(p.tile, shape.source.chunk) <= widest for p in vars(shape).values())
    # Distances from the first row of a tile: back to a chunk's length behind it, on to two chunks beyond the near rows.
    entries = (near + 4 * margin) // 2 * 2  # so that both lines begin at whole 16 bytes
    is_near = torch.zeros(entries + 2 * widest, dtype=torch.bool, device="cpu")
    is_near[margin + widest + offsets] = True
    bits = torch.zeros(2, entries, dtype=torch.int64, device="cpu")
    for line, sign in zip(bits, (-1, 1), strict=True):
        for bit in range(widest):
            line |= is_near[widest + sign * bit :][:entries].long() << bit
    return bits
