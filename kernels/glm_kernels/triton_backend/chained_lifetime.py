"""The lifetime recurrence of patterns with many live rows in Triton, as chains of programs: how it is launched."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from glm_kernels.calls import RecurrenceCall
from glm_kernels.patterns import Dense, Lifetime
from glm_kernels.triton_backend.chained_lifetime_backward import chained_adjoint, chained_gradient
from glm_kernels.triton_backend.chained_lifetime_forward import chained_forward
from glm_kernels.triton_backend.tables import Grid, Tables, tables_of_bounds, tables_of_documents, tables_of_rows

LARGEST_SLOTS = 1024
"""Patterns with more live rows than this are not worth their tables: dense kernels serve them better."""


@dataclass(frozen=True)
class _Configuration:
    """Rows of a chunk and slots of a tile, powers of two ≥ 16."""

    chunk: int
    tile: int


@dataclass(frozen=True)
class _Launch:
    """Everything that forward and backward launches share."""

    tables: Tables
    state: tuple[Tensor, ...]
    """k and y of the initial state, in fp32, if there is one."""
    work: torch.dtype
    """What programs hand to one another, and multiply weights with."""
    constants: dict[str, Any]

    @property
    def segments(self) -> int:
        return len(self.tables.segments)


def _configuration(dtype: torch.dtype, width: int) -> _Configuration:
    """By shape, never by timing: the largest chunks for which programs have registers. For 4 warps on an H100."""
    rows = 16 if dtype != torch.bfloat16 else 64 if width <= 128 else 32
    return _Configuration(rows, rows)


@lru_cache(maxsize=256)
def _tiles_needed(pattern: Lifetime, reach: int, continued: bool, configuration: _Configuration) -> int:
    """Tiles of slots for rows that are read later than in the chunk behind their own."""
    longest = min(max(life for _, life in pattern.levels(reach)), reach)
    if longest <= configuration.chunk and not continued:
        return 0
    return triton.cdiv(pattern.slot_count(reach), configuration.tile)


def why_not(call: RecurrenceCall) -> str | None:
    """Why these kernels cannot serve a call that Triton could serve; None if they can."""
    if not isinstance(call.pattern, Lifetime):
        return f"{call.pattern} is not a lifetime pattern"
    if isinstance(call.pattern, Dense) or call.pattern.slot_count(call.reach) > LARGEST_SLOTS:
        return f"{call.pattern} has more than {LARGEST_SLOTS} live rows after {call.reach} tokens"
    return None


def outputs(call: RecurrenceCall) -> tuple[Tensor, Tensor, Tensor]:
    """y and the logarithms of softmax denominators, as `RecurrenceKernel` says, and int8 residuals of y, shaped like y.

    Residuals are the digits of y that rounding cut off. Of float32 there are none, and their tensor is empty.
    """
    launch = _launch(call)
    q, k, v, d = call.q, call.k, call.v, call.d
    heads = v.shape[2]
    y = torch.empty_like(v)
    residual = torch.empty_like(v if v.dtype != torch.float32 else v[:0], dtype=torch.int8)
    lse = q.new_empty(q.shape[:3], dtype=torch.float32)
    # A program is read by the next one only, so two entries a sequence do, unless sequences are many and short.
    ring = 2 * len(launch.tables.sequences) <= launch.segments
    entries = 2 * len(launch.tables.sequences) if ring else launch.segments
    handed = q.new_empty(entries, heads, launch.constants["C"], launch.constants["V2"], dtype=launch.work)
    bound = q.new_empty(entries, heads, dtype=torch.float32)
    state_k, state_y = launch.state or (lse, lse)
    chained_forward[(launch.segments * heads,)](
        q, k, v, d, y, residual, lse, handed, bound, state_k, state_y, *_walk(launch, call, flags=2),
        RING=ring, **launch.constants,
    )  # fmt: skip
    return y, lse, residual


def gradients(
    call: RecurrenceCall, y: Tensor, lse: Tensor, grad: Tensor, residual: Tensor | None = None
) -> list[Tensor]:
    """As `RecurrenceKernel` says. Without y's residuals `outputs` runs again to have them."""
    if residual is None:
        residual = outputs(call)[2] if y.dtype != torch.float32 else y.new_empty(0, dtype=torch.int8)
    launch = _launch(call, again=True)
    q, k, v, d = call.q, call.k, call.v, call.d
    heads, constants = q.shape[2], launch.constants
    dq, dk, dv, dd = (torch.empty_like(x) for x in (q, k, v, d))
    state_k, state_y = launch.state or (lse, lse)
    dstate = [torch.zeros_like(x) for x in launch.state]
    dstate_k, dstate_y = dstate or (lse, lse)
    # Where both take the same memory, z is in that of dv until it is needed no more.
    z = dv.view(launch.work) if launch.work.itemsize == dv.dtype.itemsize else torch.empty_like(dv, dtype=launch.work)
    z_unit = q.new_empty(launch.segments, heads, dtype=torch.float32)
    row_term = torch.empty_like(lse)
    carriers, by_row = _carriers(launch, call)
    slots, tiles = constants["SLOTS"], constants["TILES"]
    carried = q.new_empty(carriers, heads, slots, v.shape[3], dtype=torch.float32)
    chained_adjoint[(launch.segments * heads,)](
        q, k, v, d, y, residual, grad, lse, dd, z, z_unit, row_term, carried, state_k, dstate_y,
        *_walk(launch, call, flags=1 + tiles), BY_ROW=by_row, **constants,
    )  # fmt: skip
    carried = q.new_empty(carriers, heads, slots, q.shape[3], dtype=torch.float32)
    constants = {name: x for name, x in constants.items() if name != "DOUBLINGS"}
    chained_gradient[(launch.segments * heads,)](
        q, k, d, y, residual, lse, z, z_unit, row_term, dq, dk, dv, carried, state_k, state_y, dstate_k,
        *_walk(launch, call, flags=1 + tiles), BY_ROW=by_row, **constants,
    )  # fmt: skip
    return [dq, dk, dv, dd, *dstate]


def _launch(call: RecurrenceCall, again: bool = False) -> _Launch:
    pattern, q, v, state = call.pattern, call.q, call.v, call.state
    assert isinstance(pattern, Lifetime)
    configuration = _configuration(q.dtype, max(q.shape[3], v.shape[3]))
    tiles = _tiles_needed(pattern, call.reach, state is not None, configuration)
    grid = Grid(configuration.chunk, 1, max(16, tiles * configuration.tile))
    initial = None if state is None else state.position
    if call.cu_seqlens is not None:
        tables = tables_of_bounds(pattern, call.cu_seqlens, q.shape[1], initial, grid, call.reach, again)
    elif call.document_starts is not None or initial is not None:
        starts = call.document_starts
        starts = q.new_zeros(q.shape[:2], dtype=torch.int32) if starts is None else starts
        tables = tables_of_documents(pattern, starts, initial, grid, call.reach, again)
    else:
        tables = tables_of_rows(pattern, *q.shape[:2], grid, q.device)
    # Of float16 operands float16 would lose digits, and TF32 is no better: three products of it are.
    work = torch.float16 if q.dtype == torch.bfloat16 else torch.float32
    constants = {
        "C": configuration.chunk,
        "DOUBLINGS": configuration.chunk.bit_length() - 1,
        "TILE": configuration.tile,
        "TILES": tiles,
        "SLOTS": grid.slots,
        "STATE_SLOTS": 0 if state is None else state.k.shape[2],
        "K": q.shape[3],
        "V": v.shape[3],
        "K2": max(16, triton.next_power_of_2(q.shape[3])),
        "V2": max(16, triton.next_power_of_2(v.shape[3])),
        "WORK": tl.float16 if work == torch.float16 else tl.float32,
        "PRECISION": "tf32x3",
        "num_warps": 4,
    }
    rows = () if state is None else (state.k.float(), state.y.float())
    return _Launch(tables, rows, work, constants)


def _walk(launch: _Launch, call: RecurrenceCall, flags: int) -> tuple[Any, ...]:
    """The arguments by which programs find their chunk and, with that many flags each, one another."""
    t, heads = launch.tables, call.q.shape[2]
    zeros = torch.zeros(1 + launch.segments * heads * flags, dtype=torch.int32, device=call.q.device)
    return t.last, t.occupant, t.occupant_last, t.segments, t.order, zeros, zeros[1:], heads, call.scale


def _carriers(launch: _Launch, call: RecurrenceCall) -> tuple[int, bool]:
    """How many carry something from chunk to chunk: sequences; if these are too many, first rows of sequences.

    Only sequences of three chunks and more carry anything, so no two of them start within 2 chunks + 1 rows.
    """
    if launch.constants["TILES"] == 0:
        return 0, False
    sequences = len(launch.tables.sequences)
    apart = call.q.shape[0] * call.q.shape[1] // (2 * launch.constants["C"] + 1) + 1
    by_row = call.state is None and sequences > apart
    return apart if by_row else sequences, by_row
