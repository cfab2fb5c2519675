"""The launches of the lifetime recurrence: what its kernels are given, and how they are configured."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from glm_kernels.triton_backend.common.constants import Constants
from glm_kernels.triton_backend.common.late_keys import late_key_pass
from glm_kernels.triton_backend.common.softmax import norm_dtype
from glm_kernels.triton_backend.common.tables import Grid, Tables
from glm_kernels.triton_backend.common.tiles import product_width
from glm_kernels.triton_backend.segmented.backward import adjoint_pass, gradient_pass
from glm_kernels.triton_backend.segmented.forward import boundary_pass, output_pass, segment_pass

_WORK = {
    torch.bfloat16: (tl.bfloat16, torch.float16, "ieee"),
    torch.float16: (tl.float32, torch.float32, "tf32x3"),
    torch.float32: (tl.float32, torch.float32, "ieee"),
}
"""For each dtype of operands: what kernels hold them in, what rows of maps are stored in (elements in [0, 1]), and the
precision of products of fp32 tiles. Float16 itself has as many digits as one TF32 product keeps."""
_ROWS_OF_OUTPUT = 64


@dataclass(frozen=True)
class Pass:
    """How a kernel is compiled. A cap of registers lets more programs share a multiprocessor."""

    warps: int
    stages: int
    registers: int | None = None

    @property
    def options(self) -> dict[str, int]:
        """Keywords of a launch."""
        cap = {} if self.registers is None else {"maxnreg": self.registers}
        return {"num_warps": self.warps, **cap}


@dataclass(frozen=True)
class Configuration:
    """How a segment is cut, how many rows the gradients take at once, in blocks of how many lanes of V, and the passes.

    Chosen by shape, never by timing.
    """

    chunk: int
    chunks: int
    rows: int
    block: int
    segment: Pass
    adjoint: Pass
    gradient: Pass


def configuration(slots: int, width: int, dtype: torch.dtype) -> Configuration:
    """For S slots, K and V up to `width`, and operands of `dtype`. Measured on an H100 with Triton 3.6."""
    wide = width > 128
    if dtype != torch.bfloat16:
        # Products of fp32 tiles take many instructions: more warps keep compilation short and values in registers.
        many = Pass(8 if wide else 4, 1)
        return Configuration(chunk=16, chunks=32, rows=16, block=64, segment=many, adjoint=many, gradient=many)
    one, two, four = Pass(1, 2), Pass(2, 2), Pass(4, 2)
    segment, gradient = (two, four) if wide or slots > 16 else (one, two)
    block = 64 if wide else 128
    return Configuration(16, 32, rows=16, block=block, segment=segment, adjoint=two, gradient=gradient)


@dataclass(frozen=True, eq=False)
class Case(Constants):
    """What the kernels that walk through segments are compiled for."""

    C: tl.constexpr
    """Rows of a chunk."""
    CHUNKS: tl.constexpr
    """Chunks of a segment."""
    ROWS: tl.constexpr
    """Rows that the gradients take at once."""
    BLOCK: tl.constexpr
    """Lanes of V that the gradients take at once."""
    S: tl.constexpr
    """Slots."""
    STATE_SLOTS: tl.constexpr
    """Slots of the initial state; 0 without one."""
    END_LINES: tl.constexpr
    """How far apart `occupant` has the lines with what slots hold when segments end."""
    K: tl.constexpr
    V: tl.constexpr
    K2: tl.constexpr
    """Lanes of a tile of keys: K, padded."""
    V2: tl.constexpr
    DTYPE: tl.constexpr
    """What operands are worked on in."""
    PRECISION: tl.constexpr
    """Of products of float32 tiles."""
    STAGES: tl.constexpr
    """Of the loops over chunks."""


@dataclass(frozen=True)
class Maps:
    """What enters a segment ↦ each of its rows, and ↦ what leaves it: affine maps, fp32 but for the rows' maps."""

    unit: Tensor
    """`[B, T, H]`: units of the rows for nothing entering, which stand where the results will be."""
    rows: Tensor
    """`[B, T, H, S]`: the linear part of the rows' maps."""
    map: Tensor
    """`[segments, H, S, S]`"""
    add: Tensor
    """`[segments, H, S, V]`"""


@dataclass(frozen=True)
class Launch:
    """One use of the kernels: operands `[B, T, H, ·]`, contiguous, and tables of their rows.

    state_k `[sequences, H, slots of the state, K]`: keys of the initial state, if there is one.
    ends: line of `tables.occupant` with the rows in slots at the end of segment 0, end_lines further for every one
    after it.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    d: Tensor
    scale: float
    state_k: Tensor | None
    tables: Tables
    grid: Grid
    configuration: Configuration
    ends: int
    end_lines: int

    @property
    def state_slots(self) -> int:
        """Slots of the initial state, 0 without one."""
        return 0 if self.state_k is None else self.state_k.shape[2]

    def maps(self) -> tuple[Tensor, Tensor, Maps]:
        """y for nothing entering (packed), binary logarithms of the softmax denominators, and the maps."""
        y, lse = torch.empty_like(self.v), self.d.new_empty(self.d.shape, dtype=norm_dtype(self.q.dtype))
        maps = self._empty_maps()
        segment_pass[self._grid](
            self.q, self.k, self.v, self.d, y, lse, maps.unit, maps.rows, maps.map, maps.add, self._state_k,
            *self._tables, self.ends, *self._numbers,
            CASE=self._case(self.configuration.segment), **self.configuration.segment.options,
        )  # fmt: skip
        return y, lse, maps

    def adjoint_maps(self, lse: Tensor, grad: Tensor) -> tuple[Tensor, Maps]:
        """z for zero adjoints entering from behind, in a tensor like v, and the maps on adjoints."""
        z, maps = torch.empty_like(self.v), self._empty_maps()
        adjoint_pass[self._grid](
            self.q, self.k, lse, grad, z, maps.unit, maps.rows, maps.map, maps.add, self._state_k,
            *self._tables, self.ends, *self._numbers,
            CASE=self._case(self.configuration.adjoint), **self.configuration.adjoint.options,
        )  # fmt: skip
        return z, maps

    def folded(
        self, maps: Maps, start: Tensor | None = None, *, finish: bool = False, backward: bool = False
    ) -> tuple[Tensor, Tensor]:
        """What enters each segment `[segments, H, S, V]`, and what leaves the last one if `finish`.

        From `start` (zero unless given) on; states are `[sequences, H, slots of the state, V]`.
        """
        boundary = torch.empty_like(maps.add)
        left = self._state(maps.add.shape[3]) if finish else boundary
        self._fold(maps, maps.add, boundary, start, left, finish, backward, of_maps=False)
        return boundary, left

    def composed(self, maps: Maps) -> Tensor:
        """The linear part of a sequence's map, `[sequences, H, slots of the state, slots of the state]`."""
        found = self._state(self.state_slots)
        self._fold(maps, maps.map, maps.map, None, found, finish=True, backward=False, of_maps=True)
        return found

    def complete(self, y: Tensor, maps: Maps, boundary: Tensor) -> None:
        """Adds to y what the boundaries bring."""
        grid, width = self.grid, self.v.shape[3]
        rows = min(_ROWS_OF_OUTPUT, grid.segment)
        output_pass[(self._grid[0] * (grid.segment // rows), self._grid[1])](
            y, maps.unit, maps.rows, boundary, self.tables.segments, self._grid[1],
            ROWS=rows, SEGMENT=grid.segment, S=grid.slots,
            V=width, V2=product_width(width), PRECISION=_WORK[self.q.dtype][2], num_warps=4,
        )  # fmt: skip

    def gradients(
        self, y: Tensor, lse: Tensor, z: Tensor, maps: Maps, boundary: Tensor, state_y: Tensor | None
    ) -> list[Tensor]:
        """Gradients of q, k, v, d and, with a state, of its keys. The one of v takes the place of z."""
        key_dim, chosen = self.k.shape[3], self.configuration.gradient
        dq, dk, dd = torch.empty_like(self.q), torch.empty_like(self.k), torch.empty_like(self.d)
        segment_dk = self._per_segment(key_dim)
        dstate_k = self._state_k if self.state_k is None else torch.zeros_like(self.state_k)
        gradient_pass[self._grid](
            self.q, self.k, self.v, self.d, y, lse, maps.unit, maps.rows, boundary,
            self._state_k, self.v if state_y is None else state_y, dq, dk, z, dd, segment_dk,
            *self._tables, *self._numbers, CASE=self._case(chosen), **chosen.options,
        )  # fmt: skip
        late_key_pass[(*self._grid, 1)](
            dk, dstate_k, segment_dk, self.tables.occupant, self.tables.segments, self._grid[1],
            C=self.grid.chunk, LINES=self.grid.chunks, RUN=1, BY_ROW=False, RECENT=0, TILE=self.grid.slots,
            SLOTS=self.grid.slots, STATE_SLOTS=self.state_slots, K=key_dim, K2=product_width(key_dim), num_warps=1,
        )  # fmt: skip
        return [dq, dk, z, dd] if self.state_k is None else [dq, dk, z, dd, dstate_k]

    def _fold(
        self, maps: Maps, add: Tensor, boundary: Tensor, start: Tensor | None, left: Tensor,
        finish: bool, backward: bool, of_maps: bool,
    ) -> None:  # fmt: skip
        width = left.shape[3] if of_maps else add.shape[3]
        # Columns are independent; more slots leave less room for them in one program.
        block = min(product_width(width), 2048 // self.grid.slots)
        boundary_pass[(self._grid[1], triton.cdiv(width, block), len(self.tables.sequences))](
            maps.map, add, boundary, add if start is None else start, left, self.tables.sequences, self._grid[1],
            S=self.grid.slots, STATE_SLOTS=self.state_slots, D=width, BLOCK=block, BACKWARD=backward,
            START=start is not None, FINISH=finish, MAPS=of_maps, num_warps=4,
        )  # fmt: skip

    @property
    def _grid(self) -> tuple[int, int]:
        return len(self.tables.segments), self.q.shape[2]

    @property
    def _tables(self) -> tuple[Tensor, ...]:
        tables = self.tables
        return tables.last, tables.occupant, tables.occupant_last, tables.segments

    @property
    def _numbers(self) -> tuple[int, float]:
        return self.q.shape[2], self.scale

    @property
    def _state_k(self) -> Tensor:
        return self.q if self.state_k is None else self.state_k

    def _case(self, chosen: Pass) -> Case:
        key_dim, value_dim = self.q.shape[3], self.v.shape[3]
        padded = product_width(value_dim)
        dtype, _, precision = _WORK[self.q.dtype]
        return Case.of(
            C=self.grid.chunk, CHUNKS=self.grid.chunks, ROWS=self.configuration.rows,
            BLOCK=min(self.configuration.block, padded), S=self.grid.slots, STATE_SLOTS=self.state_slots,
            END_LINES=self.end_lines, K=key_dim, V=value_dim, K2=product_width(key_dim), V2=padded,
            DTYPE=dtype, PRECISION=precision, STAGES=chosen.stages,
        )  # fmt: skip

    def _empty_maps(self) -> Maps:
        shape, slots = self.d.shape, self.grid.slots
        unit = self.d.new_empty(shape, dtype=torch.float32)
        rows = self.d.new_empty(*shape, slots, dtype=_WORK[self.v.dtype][1])
        return Maps(unit, rows, self._per_segment(slots), self._per_segment(self.v.shape[3]))

    def _per_segment(self, width: int) -> Tensor:
        return self.d.new_empty(*self._grid, self.grid.slots, width, dtype=torch.float32)

    def _state(self, width: int) -> Tensor:
        # Of a state with more slots than the pattern needs, the others count for nothing.
        return self.d.new_zeros(len(self.tables.sequences), self._grid[1], self.state_slots, width, dtype=torch.float32)
