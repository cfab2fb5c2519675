"""The lifetime recurrence of patterns with many live rows in Triton, as chains of programs: how it is launched."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from glm_kernels.kernel_interface import KeptShapes, RecurrenceCall
from glm_kernels.patterns import Dense, Lifetime
from glm_kernels.triton_backend.chained.adjoint import chained_adjoint
from glm_kernels.triton_backend.chained.forward import chained_forward
from glm_kernels.triton_backend.chained.gradient import run_gradient, value_gradient
from glm_kernels.triton_backend.common.chain import nothing_yet
from glm_kernels.triton_backend.common.constants import Constants
from glm_kernels.triton_backend.common.late_keys import late_key_pass
from glm_kernels.triton_backend.common.numerics import residual_of
from glm_kernels.triton_backend.common.softmax import norm_dtype
from glm_kernels.triton_backend.common.tables import Grid, Tables, tables_of
from glm_kernels.triton_backend.common.tiles import padded_width

LARGEST_SLOTS = 1024
"""Patterns with more live rows than this are not worth their tables: dense kernels serve them better."""


_SHORTEST_RUN, _LONGEST_RUN, _PROGRAMS = 4, 16, 512
"""Chunks of a run: as many as leave enough programs. Each run has its own sums over later rows, in memory."""


@dataclass(frozen=True)
class _Configuration:
    """Rows of a chunk and slots of a tile, powers of two ≥ 16, and warps of a program and of a chain's program."""

    chunk: int
    tile: int
    warps: int = 4
    chain_warps: int = 4


@dataclass(frozen=True, eq=False)
class Case(Constants):
    """What the kernels that walk along chunks are compiled for."""

    C: tl.constexpr
    """Rows of a chunk."""
    TILE: tl.constexpr
    """Slots of a tile."""
    TILES: tl.constexpr
    """Tiles of slots that rows may be read from; 0 if none is read later than in the chunk behind its own."""
    SLOTS: tl.constexpr
    """Slots that the tables have."""
    STATE_SLOTS: tl.constexpr
    """Slots of the initial state; 0 without one."""
    K: tl.constexpr
    V: tl.constexpr
    K2: tl.constexpr
    """Lanes of a tile of keys: K, padded."""
    V2: tl.constexpr
    WORK: tl.constexpr
    """What programs hand to one another in, and multiply weights in."""
    PRECISION: tl.constexpr
    """Of products of float32 tiles."""
    WARPS: tl.constexpr
    """Of a chain's program."""
    PADDED: tl.constexpr = False
    """Of the backward pass: rows of z are none of words that arrive by themselves."""
    BY_ROW: tl.constexpr = False
    """Of the backward pass: what is kept for each sequence is numbered by the row at which the sequence starts."""
    RUN: tl.constexpr = 1
    """Of the gradients: chunks of a run."""


@dataclass(frozen=True)
class _Launch:
    """Everything that forward and backward launches share."""

    tables: Tables
    state: tuple[Tensor, ...]
    """k and y of the initial state, in fp32, if there is one."""
    work: torch.dtype
    """What programs hand to one another, and multiply weights with."""
    constants: dict[str, Any]
    """The fields of `Case` that all have in common."""
    warps: int
    """Of a program that is part of no chain."""

    @property
    def chain_warps(self) -> int:
        return int(self.constants["WARPS"])

    @property
    def segments(self) -> int:
        return len(self.tables.segments)


def _configuration(dtype: torch.dtype, width: int) -> _Configuration:
    """By shape, never by timing: the largest chunks for which programs have registers on an H100."""
    rows = 16 if dtype != torch.bfloat16 else 64 if width <= 128 else 32
    # Products of float32 without tensor cores: wide rows need the registers of more warps.
    warps = 8 if dtype == torch.float32 and width > 128 else 4
    # Of bf16 more warps shorten what a chunk waits for: on an H200 with 8 heads of 128 the chain takes 6.3 instead of
    # 8.5 ms forward and 10.7 instead of 17.4 ms backward. Gradients, which wait for nobody, take 6.6 instead of 4.9.
    return _Configuration(rows, rows, warps, 8 if dtype == torch.bfloat16 and 64 < width <= 128 else warps)


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


def kept_shapes(call: RecurrenceCall) -> KeptShapes:
    """Binary logarithms of the softmax denominators `[B, T, H]`, and the residuals of y `[B, T, H, V]`.

    No residuals where a state makes it a matter of values whether these kernels run, or others, which have none.
    """
    denominators = (tuple(call.q.shape[:3]), norm_dtype(call.q.dtype))
    if call.v.dtype == torch.float32 or call.state is not None:
        return [denominators]
    return [denominators, (tuple(call.v.shape), torch.int8)]


def forward(call: RecurrenceCall) -> tuple[Tensor, Tensor, Tensor]:
    """y, and for the backward pass binary logarithms of the softmax denominators and the residuals of y."""
    launch = _launch(call)
    q, k, v, d = call.q, call.k, call.v, call.d
    heads = v.shape[2]
    y = torch.empty_like(v)
    residual = residual_of(v)
    lse = q.new_empty(q.shape[:3], dtype=norm_dtype(q.dtype))
    tile = launch.constants["C"], launch.constants["V2"]
    handed = nothing_yet(q.new_empty(launch.segments, heads, *tile, dtype=launch.work))
    largest = torch.linalg.vector_norm(v, torch.inf, (0, 1, 3)).float()
    for outputs in launch.state[1:]:
        largest = torch.maximum(largest, torch.linalg.vector_norm(outputs, torch.inf, (0, 2, 3)))
    state_k, state_y = launch.state or (lse, lse)
    chained_forward[(launch.segments * heads,)](
        q, k, v, d, y, residual, lse, handed, largest, state_k, state_y, *_walk(launch, call, flags=1),
        CASE=Case.of(**launch.constants), num_warps=launch.chain_warps,
    )  # fmt: skip
    return y, lse, residual


def backward(call: RecurrenceCall, y: Tensor, grad: Tensor, lse: Tensor, residual: Tensor) -> list[Tensor]:
    """As `RecurrenceKernel` says. Without y's residuals `forward` runs again to have them."""
    if residual.numel() == 0 and y.dtype != torch.float32:
        _, _, residual = forward(call)
    launch = _launch(call)
    q, k, v, d = call.q, call.k, call.v, call.d
    heads, constants, warps = q.shape[2], launch.constants, launch.warps
    dq, dk, dv, dd = (torch.empty_like(x) for x in (q, k, v, d))
    state_k, state_y = launch.state or (lse, lse)
    dstate = [torch.zeros_like(x) for x in launch.state]
    dstate_k, dstate_y = dstate or (dk, lse)
    # Where both take the same memory, z is in that of dv until it is needed no more.
    z = dv.view(launch.work) if launch.work.itemsize == dv.dtype.itemsize else torch.empty_like(dv, dtype=launch.work)
    padded = constants["V"] != constants["V2"]
    if not padded:
        nothing_yet(z)
    z_unit = nothing_yet(q.new_empty(launch.segments, heads, dtype=torch.float32))
    row_term = q.new_empty(q.shape[:3], dtype=torch.float32)
    tiles, runs = constants["TILES"], _runs(launch, call)
    carried = q.new_empty(runs.carriers, heads, constants["SLOTS"], v.shape[3], dtype=torch.float32)
    chained_adjoint[(launch.segments * heads,)](
        q, k, v, d, y, residual, grad, lse, dd, z, z_unit, row_term, carried, state_k, dstate_y,
        *_walk(launch, call, flags=1 + tiles),
        CASE=Case.of(**constants, PADDED=padded, BY_ROW=runs.by_row), num_warps=launch.chain_warps,
    )  # fmt: skip
    del carried
    late = q.new_empty(runs.entries, heads, constants["SLOTS"], q.shape[3], dtype=torch.float32)
    t, grid = launch.tables, (launch.segments, heads)
    run_gradient[grid](
        q, k, y, residual, lse, z, z_unit, row_term, dq, dk, late, state_k, state_y,
        t.last, t.occupant, t.occupant_last, t.segments, heads, call.scale,
        CASE=Case.of(**constants, BY_ROW=runs.by_row, RUN=runs.chunks), num_warps=warps,
    )  # fmt: skip
    value_gradient[grid](z, z_unit, d, lse, dv, t.segments, heads, **_named(constants, _VALUES), num_warps=warps)
    if tiles:
        late_key_pass[(*grid, tiles)](
            dk, dstate_k, late, t.occupant, t.segments, heads,
            LINES=1, RUN=runs.chunks, BY_ROW=runs.by_row, RECENT=constants["C"],
            **_named(constants, _LATE_KEYS), num_warps=warps,
        )  # fmt: skip
    return [dq, dk, dv, dd, *dstate]


_LATE_KEYS = ("C", "TILE", "SLOTS", "STATE_SLOTS", "K", "K2")
_VALUES = ("C", "V", "V2")


def _named(constants: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: constants[name] for name in names}


def _launch(call: RecurrenceCall) -> _Launch:
    pattern, q, v, state = call.pattern, call.q, call.v, call.state
    assert isinstance(pattern, Lifetime)
    configuration = _configuration(q.dtype, max(q.shape[3], v.shape[3]))
    tiles = _tiles_needed(pattern, call.reach, state is not None, configuration)
    grid = Grid(configuration.chunk, 1, max(16, tiles * configuration.tile))
    tables = tables_of(call, grid)
    # Of float16 operands float16 would lose digits, and TF32 is no better: three products of it are.
    work = torch.float16 if q.dtype == torch.bfloat16 else torch.float32
    constants = {
        "C": configuration.chunk,
        "TILE": configuration.tile,
        "TILES": tiles,
        "SLOTS": grid.slots,
        "STATE_SLOTS": 0 if state is None else state.k.shape[2],
        "K": q.shape[3],
        "V": v.shape[3],
        "K2": padded_width(q.shape[3]),
        "V2": padded_width(v.shape[3]),
        "WORK": tl.float16 if work == torch.float16 else tl.float32,
        "PRECISION": "ieee" if q.dtype == torch.float32 else "tf32x3",
        "WARPS": configuration.chain_warps,
    }
    rows = () if state is None else (state.k.float(), state.y.float())
    return _Launch(tables, rows, work, constants, configuration.warps)


def _walk(launch: _Launch, call: RecurrenceCall, flags: int) -> tuple[Any, ...]:
    """The arguments by which programs find their chunk and, with that many flags each, one another."""
    t, heads = launch.tables, call.q.shape[2]
    zeros = torch.zeros(1 + launch.segments * heads * flags, dtype=torch.int32, device=call.q.device)
    return t.last, t.occupant, t.occupant_last, t.segments, t.order, zeros, zeros[1:], heads, call.scale


@dataclass(frozen=True)
class _Runs:
    """How sequences are cut where gradients are taken, and what sums over later rows need."""

    chunks: int
    """Chunks of a run."""
    carriers: int
    """How many sequences carry something from chunk to chunk; more than are known to, if these are too many."""
    by_row: bool
    """Whether they are told apart by the rows at which they start."""
    entries: int
    """Of sums for the keys of rows before a run."""


def _runs(launch: _Launch, call: RecurrenceCall) -> _Runs:
    rows, chunk, heads = call.q.shape[0] * call.q.shape[1], launch.constants["C"], call.q.shape[2]
    if launch.constants["TILES"] == 0:
        return _Runs(1, 0, False, 0)
    # Only sequences of three chunks and more carry anything, so no two of them start within 2 chunks + 1 rows.
    apart = rows // (2 * chunk + 1) + 1
    sequences = len(launch.tables.sequences)
    by_row = call.state is None and sequences > apart
    carriers = apart if by_row else sequences
    chunks = _SHORTEST_RUN
    while chunks < _LONGEST_RUN and launch.segments * heads >= 2 * chunks * _PROGRAMS:
        chunks *= 2
    return _Runs(chunks, carriers, by_row, rows // (chunks * chunk) + 1 + carriers)
