"""The lifetime recurrence in Triton: what its kernels serve, and how their launches follow one another."""

from __future__ import annotations

from functools import lru_cache

import triton
from torch import Tensor

from glm_kernels.kernel_interface import LARGEST_SLOTS, KeptShapes, RecurrenceCall
from glm_kernels.patterns import Dense, Lifetime
from glm_kernels.triton_backend.common.softmax import norm_dtype
from glm_kernels.triton_backend.common.tables import Grid, tables_of
from glm_kernels.triton_backend.segmented.passes import Launch, configuration


@lru_cache(maxsize=256)
def slots_needed(pattern: Lifetime, length: int) -> int:
    """Slots S of the kernels for documents of up to `length` tokens: a power of two, at least a tensor core's 16."""
    return max(16, triton.next_power_of_2(pattern.slot_count(length)))


@lru_cache(maxsize=256)
def preferred(pattern: Lifetime, reach: int) -> bool:
    """Whether these kernels are the best for documents of up to `reach` tokens: few rows are live, at great distances.

    What comes from near costs more here, since chunks are short; and outputs that average many neighbours are alike,
    where the gradients of scores need more of y than its rounded value, which is all that these kernels have.
    """
    farthest = min(max(life for _, life in pattern.levels(reach)), reach)
    return pattern.slot_count(reach) <= min(LARGEST_SLOTS, farthest.bit_length() + 1)


def why_not(call: RecurrenceCall) -> str | None:
    """Why these kernels cannot serve a call that Triton could serve; None if they can."""
    if not isinstance(call.pattern, Lifetime):
        return f"{call.pattern} is not a lifetime pattern"
    if isinstance(call.pattern, Dense) or slots_needed(call.pattern, call.reach) > LARGEST_SLOTS:
        return f"{call.pattern} has more than {LARGEST_SLOTS} live rows after {call.reach} tokens"
    return None


def kept_shapes(call: RecurrenceCall) -> KeptShapes:
    """Binary logarithms of the softmax denominators `[B, T, H]`."""
    return [(tuple(call.q.shape[:3]), norm_dtype(call.q.dtype))]


def forward(call: RecurrenceCall) -> tuple[Tensor, Tensor]:
    """y, and for the backward pass binary logarithms of the softmax denominators."""
    launch = planned(call)
    y, lse, maps = launch.maps()
    boundary, _ = launch.folded(maps, None if call.state is None else call.state.y.float())
    launch.complete(y, maps, boundary)
    return y, lse


def backward(call: RecurrenceCall, y: Tensor, grad: Tensor, lse: Tensor, *none: Tensor) -> list[Tensor]:
    """As `RecurrenceKernel` says."""
    launch = planned(call)
    z, maps = launch.adjoint_maps(lse, grad)
    boundary, dstate_y = launch.folded(maps, finish=call.state is not None, backward=True)
    found = launch.gradients(y, lse, z, maps, boundary, None if call.state is None else call.state.y.float())
    return found if call.state is None else [*found, dstate_y]


def planned(call: RecurrenceCall) -> Launch:
    """The launches of a call, and the tables that they need."""
    assert isinstance(call.pattern, Lifetime)
    slots, state = slots_needed(call.pattern, call.reach), call.state
    chosen = configuration(slots, max(call.q.shape[3], call.v.shape[3]), call.q.dtype)
    grid = Grid(chosen.chunk, chosen.chunks, slots)
    # A segment ends where the next one begins; behind the last one is the spare line, or another sequence.
    return Launch(
        call.q, call.k, call.v, call.d, call.scale, None if state is None else state.k.float(),
        tables_of(call, grid), grid, chosen, ends=grid.chunks, end_lines=grid.chunks,
    )  # fmt: skip
