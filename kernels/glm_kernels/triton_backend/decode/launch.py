"""One token of decoding in Triton: how the step kernels are launched.

With room in the state nothing here waits for the device or depends on what is in its memory, and the state stays where
it is: a step can be captured in a CUDA graph (after one step that was not, which compiles kernels and makes tables).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from glm_kernels.patterns import Dense, Lifetime, Offsets, Pattern
from glm_kernels.patterns.slots import distances, horizon, period, read_masks, slot_tables
from glm_kernels.rotation import Angles
from glm_kernels.state import RecurrenceState
from glm_kernels.triton_backend.common.constants import Constants
from glm_kernels.triton_backend.decode.kernels import (
    BY_DISTANCE,
    BY_MASK,
    BY_POSITION,
    Strides,
    combine_pass,
    ssm_step_pass,
    step_pass,
)
from glm_kernels.triton_backend.decode.overlap import options

FILLING = 528
"""Programs that keep a GPU busy: four for each of the 132 multiprocessors of an H100."""


@dataclass(frozen=True)
class _Configuration:
    """How the reads of a row are shared out: rows that a program reads at once, its warps, programs for a row.

    Several parts for a row, a power of two, cost a second launch. Chosen by shape, never by timing.
    """

    block: int
    warps: int
    parts: int


def _configuration(programs: int, entries: int) -> _Configuration:
    """For rows of `programs` heads and documents, each of which may read `entries` slots.

    Measured on an H100 with Triton 3.6: few rows are shared out until the GPU is busy or a program has some 24 slots
    to read; many rows only so far that the last programs to end do not end late.
    """
    few = min(triton.cdiv(FILLING, programs), entries // 24) if programs < FILLING // 2 else 1
    parts = triton.next_power_of_2(max(1, few, triton.cdiv(entries, 2048)))
    return _Configuration(16 if parts > 1 else 32, 4, parts)


@dataclass(frozen=True, eq=False)
class Case(Constants):
    """What the kernels of a recurrence's step are compiled for."""

    MODE: tl.constexpr
    """BY_MASK, BY_POSITION or BY_DISTANCE: how a row's reads are looked up."""
    PARTS: tl.constexpr
    """Programs that share the reads of a row."""
    K: tl.constexpr
    V: tl.constexpr
    K2: tl.constexpr
    """Lanes of a key: K, padded."""
    V2: tl.constexpr
    ROTATED: tl.constexpr
    """Whether q and k are turned by angles."""
    ATTENTION: tl.constexpr
    """Whether the own row weighs as its query and key say, and v is kept."""
    GROUP: tl.constexpr
    """Heads of queries that have keys and values together."""
    BLOCK: tl.constexpr = 0
    """Of `step_pass`: slots that a program reads at once."""
    BLOCKS: tl.constexpr = 0
    """Of `step_pass`: how often it does."""


@dataclass(frozen=True)
class _Reads:
    """What tells the kernels which slots a row reads, and which it is put in."""

    mode: int
    table: Tensor
    slot_of: Tensor
    entries: int
    words: int


def _reads(pattern: Pattern, room: int, position: Tensor) -> _Reads:
    size = horizon(pattern, room)
    if isinstance(pattern, Offsets):
        table = distances(pattern, size, position.device)
        return _Reads(BY_DISTANCE.value, table, position, len(table), 0)
    if isinstance(pattern, Dense):
        return _Reads(BY_POSITION.value, position, position, room, 0)
    assert isinstance(pattern, Lifetime)
    table = read_masks(pattern, size, position.device)
    slot_of = slot_tables(pattern, size, position.device).slot
    return _Reads(BY_MASK.value, table, slot_of, pattern.slot_count(room), table.shape[1])


def step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    d: Tensor | None,
    pattern: Pattern,
    scale: float,
    state: RecurrenceState,
    angles: Angles | None = None,
) -> tuple[Tensor, RecurrenceState]:
    """One row that continues a state with room, which it updates in place; else as `recurrence_step`.

    Without d it is a row of attention: the state's y are values, and the own row weighs as q and k say.
    """
    room = state.room
    assert room is not None
    documents, _, heads, key_dim = q.shape
    value_dim = v.shape[3]
    q, k, v = _unit_stride(q), _unit_stride(k), _unit_stride(v)
    state = RecurrenceState(
        _unit_stride(state.k), _unit_stride(state.y), state.position.to(torch.int64).contiguous(), room
    )
    y = v.new_empty(documents, 1, heads, value_dim)

    reads = _reads(pattern, room, state.position)
    configuration = _configuration(documents * heads, reads.entries)
    parts, block = configuration.parts, configuration.block
    group = heads // k.shape[2]
    alone = parts == 1 and group == 1
    partial = y if alone else v.new_empty(documents, heads, parts, value_dim + 2, dtype=torch.float32)
    cos, sin, angle_stride = (q, q, 0) if angles is None else _of_documents(angles)
    q_strides, k_strides, v_strides = (_document_and_head(x) for x in (q, k, v))
    d_strides = (0, 0) if d is None else _document_and_head(d)
    of_state = (*state.k.stride()[:3], *state.y.stride()[:3], angle_stride)
    strides = Strides._make((*q_strides, *k_strides, *v_strides, *d_strides, *of_state))
    constants = {
        "MODE": reads.mode, "PARTS": parts, "K": key_dim, "V": value_dim,
        "K2": triton.next_power_of_2(key_dim), "V2": triton.next_power_of_2(value_dim),
        "ROTATED": angles is not None, "ATTENTION": d is None, "GROUP": group,
    }  # fmt: skip
    overlap = options(q.device)
    step_pass[(heads, documents, parts)](
        q, k, v, q if d is None else d, y, state.k, state.y, state.position, reads.table, reads.slot_of, partial,
        cos, sin,
        strides, heads, room, reads.entries, reads.words, period(pattern), scale,
        CASE=Case.of(**constants, BLOCK=block, BLOCKS=triton.cdiv(reads.entries, parts * block)),
        num_warps=configuration.warps, **overlap,
    )  # fmt: skip
    if not alone:
        combine_pass[(heads, documents)](
            k, v, y, state.k, state.y, state.position, reads.slot_of, partial, cos, sin,
            strides, heads, room, period(pattern), CASE=Case.of(**constants), **overlap,
        )  # fmt: skip
    return y, state


def _of_documents(angles: Angles) -> tuple[Tensor, Tensor, int]:
    """Cosines and sines of one token of each document, and how far apart those of two documents lie."""
    cos, sin = (x.contiguous() for x in angles)
    return cos, sin, cos.stride(0) if cos.shape[0] > 1 else 0


def ssm_step(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, scale: float, state: Tensor) -> tuple[Tensor, Tensor]:
    """One row that continues a float32 state, which it updates in place; else as `glm_kernels.ssm_step`."""
    documents, _, heads, key_dim = q.shape
    value_dim = v.shape[3]
    q, k, v, state = _unit_stride(q), _unit_stride(k), _unit_stride(v), _unit_stride(state)
    y = torch.empty_like(v, memory_format=torch.contiguous_format)
    padded = triton.next_power_of_2(key_dim)
    block = max(1, min(triton.next_power_of_2(value_dim), 4096 // padded))
    ssm_step_pass[(triton.cdiv(value_dim, block), heads, documents)](
        q, k, v, log_decay, y, state,
        *(stride for x in (q, k, v, log_decay) for stride in _document_and_head(x)), *state.stride()[:3],
        heads, scale, K=key_dim, V=value_dim, K2=padded, BLOCK=block, num_warps=4, **options(q.device),
    )  # fmt: skip
    return y, state


def _unit_stride(x: Tensor) -> Tensor:
    """x with its last dimension contiguous: itself, if that is so."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _document_and_head(x: Tensor) -> tuple[int, int]:
    """Strides of operands `[N, 1, H, …]`."""
    return x.stride(0), x.stride(2)
