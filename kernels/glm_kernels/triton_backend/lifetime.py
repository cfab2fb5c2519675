"""The lifetime recurrence in Triton: how it is launched."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
from torch import Tensor

from glm_kernels.calls import RecurrenceCall
from glm_kernels.patterns import Dense, Lifetime
from glm_kernels.triton_backend.lifetime_backward import adjoint_pass, gradient_pass, key_pass
from glm_kernels.triton_backend.lifetime_forward import boundary_pass, output_pass, segment_pass
from glm_kernels.triton_backend.tables import Grid, Tables, tables_of_bounds, tables_of_documents, tables_of_rows

LARGEST_SLOTS = 64
"""Patterns with more live rows than this carry too much for one program."""


@dataclass(frozen=True)
class _Configuration:
    """How a segment is cut, and (warps, pipeline stages) of the passes. Chosen by shape, never by timing."""

    chunk: int
    chunks: int
    segment: tuple[int, int]
    adjoint: tuple[int, int]
    gradient: tuple[int, int]


def _configuration(slots: int) -> _Configuration:
    """Measured on an H100 with Triton 3.6: one warp hides the latency of small products best while slots are few."""
    if slots <= 32:
        return _Configuration(16, 32, segment=(1, 2), adjoint=(1, 2), gradient=(2, 2))
    return _Configuration(32, 32, segment=(4, 1), adjoint=(4, 1), gradient=(4, 1))


@dataclass(frozen=True)
class _Launch:
    """Everything that forward and backward launches share."""

    tables: Tables
    grid: Grid
    configuration: _Configuration
    state_slots: int

    @property
    def programs(self) -> int:
        return len(self.tables.segments)


@lru_cache(maxsize=256)
def slots_needed(pattern: Lifetime, length: int) -> int:
    """Slots S of the kernels for documents of up to `length` tokens: a power of two, at least a tensor core's 16."""
    return max(16, triton.next_power_of_2(pattern.slot_count(length)))


def _launch(call: RecurrenceCall, state: list[Tensor]) -> _Launch:
    pattern, q, initial = call.pattern, call.q, state[2] if state else None
    assert isinstance(pattern, Lifetime)
    batch, length = q.shape[:2]
    slots = slots_needed(pattern, call.reach)
    configuration = _configuration(slots)
    grid = Grid(configuration.chunk, configuration.chunks, slots)
    if call.cu_seqlens is not None:
        tables = tables_of_bounds(pattern, call.cu_seqlens, length, initial, grid, call.reach)
    elif call.document_starts is not None or initial is not None:
        starts = call.document_starts
        starts = torch.zeros(batch, length, dtype=torch.int32, device=q.device) if starts is None else starts
        tables = tables_of_documents(pattern, starts, initial, grid, call.reach)
    else:
        tables = tables_of_rows(pattern, batch, length, grid, q.device)
    return _Launch(tables, grid, configuration, state[0].shape[2] if state else 0)


def _constants(launch: _Launch, q: Tensor, v: Tensor) -> dict[str, object]:
    key_dim, value_dim = q.shape[3], v.shape[3]
    return {
        "C": launch.grid.chunk,
        "CHUNKS": launch.grid.chunks,
        "S": launch.grid.slots,
        "STATE_SLOTS": launch.state_slots,
        "K": key_dim,
        "V": value_dim,
        "K2": max(16, triton.next_power_of_2(key_dim)),
        "V2": max(16, triton.next_power_of_2(value_dim)),
        # TF32 would cost float32 operands half their digits.
        "PRECISION": "ieee" if q.dtype == torch.float32 else "tf32",
    }


def _tuned(warps_and_stages: tuple[int, int]) -> dict[str, int]:
    warps, stages = warps_and_stages
    return {"num_warps": warps, "STAGES": stages}


def _per_segment(launch: _Launch, like: Tensor, width: int) -> Tensor:
    return like.new_empty(launch.programs, like.shape[2], launch.grid.slots, width, dtype=torch.float32)


def _fold(
    launch: _Launch, map_: Tensor, add: Tensor, boundary: Tensor, start: Tensor, finish: Tensor, *, backward: bool
) -> None:
    heads, width = add.shape[1], add.shape[3]
    # Columns are independent; more slots leave less room for them in one program.
    block = min(max(16, triton.next_power_of_2(width)), 2048 // launch.grid.slots)
    boundary_pass[(heads, triton.cdiv(width, block), len(launch.tables.sequences))](
        map_, add, boundary, start, finish, launch.tables.sequences, heads,
        S=launch.grid.slots, STATE_SLOTS=launch.state_slots, D=width, BLOCK=block, BACKWARD=backward, num_warps=4,
    )  # fmt: skip


def forward(q: Tensor, k: Tensor, v: Tensor, d: Tensor, launch: _Launch, scale: float, state: list[Tensor]) -> Tensor:
    """y `[B, T, H, V]` of contiguous operands."""
    heads, value_dim = q.shape[2], v.shape[3]
    constants, tables, grid = _constants(launch, q, v), launch.tables, launch.grid
    y = torch.empty_like(v)
    row_map = v.new_empty(*v.shape[:3], grid.slots)
    segment_map, segment_add = _per_segment(launch, v, grid.slots), _per_segment(launch, v, value_dim)
    boundary = torch.empty_like(segment_add)
    state_k, state_y = state[:2] if state else (q, v)
    segment_pass[(launch.programs, heads)](
        q, k, v, d, y, row_map, segment_map, segment_add, state_k,
        tables.last, tables.occupant, tables.occupant_last, tables.segments, heads, scale,
        DOUBLINGS=grid.chunk.bit_length() - 1, **_tuned(launch.configuration.segment), **constants,
    )  # fmt: skip
    _fold(launch, segment_map, segment_add, boundary, state_y, state_y, backward=False)
    rows = min(64, grid.segment)
    output_pass[(launch.programs * (grid.segment // rows), heads)](
        y, row_map, boundary, tables.segments, heads,
        ROWS=rows, SEGMENT=grid.segment, S=grid.slots, V=value_dim, V2=constants["V2"],
        FROM_START=bool(state), PRECISION=constants["PRECISION"], num_warps=4,
    )  # fmt: skip
    return y


def backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    d: Tensor,
    y: Tensor,
    grad: Tensor,
    launch: _Launch,
    scale: float,
    state: list[Tensor],
) -> list[Tensor]:
    """Gradients of q, k, v, d and, with a state, of its k and y."""
    heads, key_dim, value_dim = q.shape[2], q.shape[3], v.shape[3]
    constants, tables, grid = _constants(launch, q, v), launch.tables, launch.grid
    z = torch.empty_like(v)
    row_map = v.new_empty(*v.shape[:3], grid.slots)
    segment_map, segment_add = _per_segment(launch, v, grid.slots), _per_segment(launch, v, value_dim)
    boundary = torch.empty_like(segment_add)
    segment_dk = _per_segment(launch, v, key_dim)
    dq, dk, dv, dd = (torch.empty_like(x) for x in (q, k, v, d))
    state_k, state_y = state[:2] if state else (q, v)
    dstate_k, dstate_y = (torch.zeros_like(x) for x in state[:2]) if state else (q, v)
    shared = (tables.last, tables.occupant, tables.occupant_last, tables.segments, heads, scale)
    adjoint_pass[(launch.programs, heads)](
        q, k, d, grad, z, row_map, segment_map, segment_add, state_k, *shared,
        DOUBLINGS=grid.chunk.bit_length() - 1, **_tuned(launch.configuration.adjoint), **constants,
    )  # fmt: skip
    _fold(launch, segment_map, segment_add, boundary, state_y, dstate_y, backward=True)
    gradient_pass[(launch.programs, heads)](
        q, k, v, d, y, z, row_map, boundary, state_k, state_y, dq, dk, dv, dd, segment_dk, *shared,
        **_tuned(launch.configuration.gradient), **constants,
    )  # fmt: skip
    key_pass[(launch.programs, heads)](
        dk, dstate_k, segment_dk, tables.occupant, tables.segments, tables.sequences, heads,
        CHUNKS=grid.chunks, S=grid.slots, STATE_SLOTS=launch.state_slots,
        K=key_dim, K2=constants["K2"], num_warps=1,
    )  # fmt: skip
    return [dq, dk, dv, dd, *((dstate_k, dstate_y) if state else ())]


def why_not(call: RecurrenceCall) -> str | None:
    """Why these kernels cannot serve a call that Triton could serve; None if they can."""
    if not isinstance(call.pattern, Lifetime):
        return f"{call.pattern} is not a lifetime pattern"
    if isinstance(call.pattern, Dense) or slots_needed(call.pattern, call.reach) > LARGEST_SLOTS:
        return f"{call.pattern} has more than {LARGEST_SLOTS} live rows after {call.reach} tokens"
    return None


def outputs(call: RecurrenceCall) -> tuple[Tensor, None]:
    """As `RecurrenceKernel` says."""
    launch, state = _planned(call)
    return forward(call.q, call.k, call.v, call.d, launch, call.scale, state), None


def gradients(call: RecurrenceCall, y: Tensor, lse: Tensor, grad: Tensor) -> list[Tensor]:
    """As `RecurrenceKernel` says."""
    launch, state = _planned(call)
    return backward(call.q, call.k, call.v, call.d, y, grad, launch, call.scale, state)


def _planned(call: RecurrenceCall) -> tuple[_Launch, list[Tensor]]:
    state = [] if call.state is None else [call.state.k.float(), call.state.y.float(), call.state.position]
    return _launch(call, state), state
