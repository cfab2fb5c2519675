"""Dense and offset recurrences in Triton: configurations, tables of distances, and the launches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from glm_kernels.device_cache import kept_on_device
from glm_kernels.patterns import Dense, Offsets, Pattern
from glm_kernels.triton_backend.all_rows.backward import adjoint_pass, gradient_pass
from glm_kernels.triton_backend.all_rows.forward import source_pass
from glm_kernels.triton_backend.all_rows.tiles import MARGIN, largest_pass
from glm_kernels.triton_backend.common.tiles import padded_width

_PRECISION = {torch.bfloat16: "tf32", torch.float16: "tf32x3", torch.float32: "ieee"}
"""Of products of float32 tiles: there are none with bfloat16 operands."""
FAR_COST = 1.5
"""Of a far offset, in tiles: measured on an H100."""
_FEW_HEADS, _MANY_HEADS = 16, 64


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


@dataclass(frozen=True)
class PackedRows:
    """int32 `[B, L]`, where each row's document starts, and `[B, chunks]`, the row after a chunk's last reader."""

    starts: Tensor
    ends: Tensor


@dataclass(frozen=True)
class Launch:
    """Everything that forward and backward launches share."""

    shape: Configuration
    reach: Reach
    documents: PackedRows | None
    scale: float


def _constants(launch: Launch, q: Tensor, v: Tensor) -> dict[str, Any]:
    key_dim, value_dim = q.shape[3], v.shape[3]
    return {
        "DENSE": launch.reach.dense,
        "FAR": len(launch.reach.far) > 1,
        "DOCUMENTS": launch.documents is not None,
        "K": key_dim,
        "V": value_dim,
        "K2": padded_width(key_dim),
        "V2": padded_width(value_dim),
        "PRECISION": _PRECISION[q.dtype],
    }


def work_dtype(operands: torch.dtype) -> torch.dtype:
    """Of y and its adjoint while they are worked with, as precise as they can be told from their rounded results: fp16
    (in units) has three digits more than bfloat16."""
    return torch.float16 if operands == torch.bfloat16 else torch.float32


def _fill_largest(x: Tensor, largest: Tensor) -> None:
    """Writes max |x| of each lane of `[B, L, H, V]` into `[B · H]`."""
    batch, length, heads, width = x.shape
    rows, steps = 32, 8
    largest_pass[(triton.cdiv(length, rows * steps), batch * heads)](
        x, largest.zero_(), length, heads,
        ROWS=rows, STEPS=steps, V=width, V2=padded_width(width), num_warps=4,
    )  # fmt: skip


def _chain(launch: Launch, x: Tensor) -> tuple[tuple[int], tuple[Tensor, Tensor], dict[str, int]]:
    """Grid, (ticket counter, progress of every lane) and constants of a chained launch over rows `[B, L, H, ·]`."""
    batch, length, heads = x.shape[:3]
    counters = torch.zeros(batch * heads + 1, dtype=torch.int32, device=x.device)
    chunk = launch.shape.source.chunk
    constants = {"DOUBLINGS": chunk.bit_length() - 1}
    return (triton.cdiv(length, chunk) * batch * heads,), (counters[:1], counters[1:]), constants


def _tuned(chosen: Pass) -> dict[str, int]:
    return {"C": chosen.chunk, "BLOCK": chosen.tile, "num_warps": chosen.warps, "STAGES": chosen.stages}


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    d: Tensor,
    y: Tensor,
    y_work: Tensor,
    log_norm: Tensor,
    largest: Tensor,
    launch: Launch,
) -> None:
    """Fills y, y_work `[B, L, H, V]`, log_norm `[B, H, L]` and largest `[B · H]`, max |v|, of contiguous operands."""
    batch, length, heads = q.shape[:3]
    reach, documents = launch.reach, launch.documents
    _fill_largest(v, largest)
    grid, counters, chain = _chain(launch, q)
    source_pass[grid](
        q, k, v, d, y, y_work, log_norm, largest, documents.starts if documents else reach.far,
        reach.near_bits[0], reach.far, reach.far_before, *counters,
        length, heads, batch * heads, launch.reach.together, reach.near, launch.scale,
        **chain, **_constants(launch, q, v), **_tuned(launch.shape.source),
    )  # fmt: skip


def backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    d: Tensor,
    y_work: Tensor,
    log_norm: Tensor,
    largest: Tensor,
    grad: Tensor,
    launch: Launch,
) -> list[Tensor]:
    """Gradients of q, k, v and d."""
    batch, length, heads = q.shape[:3]
    constants, reach, documents = _constants(launch, q, v), launch.reach, launch.documents
    constants["WHOLE"] = length % max(launch.shape.source.chunk, launch.shape.gradient.chunk) == 0
    starts, ends = (documents.starts, documents.ends) if documents else (reach.far, reach.far)
    largest_grad = torch.empty_like(largest)
    _fill_largest(grad, largest_grad)
    z_work = torch.empty_like(y_work)
    dq, dk, dv, dd = (torch.empty_like(x) for x in (q, k, v, d))
    row_term = torch.empty_like(log_norm, dtype=torch.float32)
    headroom = length.bit_length()  # every row's adjoint may gather those of all later rows
    grid, counters, chain = _chain(launch, q)
    adjoint_pass[grid](
        q, k, v, d, y_work, grad, log_norm, z_work, dv, row_term, largest, largest_grad,
        starts, ends, reach.near_bits[1], reach.far, reach.far_before, *counters,
        length, heads, batch * heads, launch.reach.together, reach.near, headroom, launch.scale,
        **chain, **constants, **_tuned(launch.shape.adjoint),
    )  # fmt: skip
    for out, readers in ((dq, False), (dk, True)):
        gradient_pass[(triton.cdiv(length, launch.shape.gradient.chunk), batch * heads)](
            q, k, v, d, y_work, z_work, log_norm, row_term, out, dd, largest, largest_grad,
            starts, ends, reach.near_bits[int(readers)], reach.far, reach.far_before,
            length, heads, reach.near, headroom, launch.scale,
            READERS=readers, UNIT=launch.shape.source.chunk, **constants, **_tuned(launch.shape.gradient),
        )  # fmt: skip
    return [dq, dk, dv, dd]
