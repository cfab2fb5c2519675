"""Dense and offset recurrences in Triton: what the kernels serve, and what they keep for the backward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from glm_kernels.kernel_interface import KeptShapes, RecurrenceCall
from glm_kernels.patterns import Dense, Offsets
from glm_kernels.triton_backend.all_rows import passes
from glm_kernels.triton_backend.all_rows.configuration import Configuration, configuration, reach_of, work_dtype
from glm_kernels.triton_backend.all_rows.rows import Rows, rows_of, shape_of
from glm_kernels.triton_backend.common.softmax import norm_dtype


def why_not(call: RecurrenceCall) -> str | None:
    """Why these kernels cannot serve a call that Triton could serve; None if they can."""
    if not isinstance(call.pattern, Dense | Offsets):
        return f"{call.pattern} is neither dense nor an offset pattern"
    return None


def kept_shapes(call: RecurrenceCall) -> KeptShapes:
    """One tensor of float32 numbers, in which `_parts` finds what `backward` needs."""
    return [((_kept_size(call),), torch.float32)]


def forward(call: RecurrenceCall) -> tuple[Tensor, Tensor]:
    """y `[B, T, H, V]`, and what `backward` needs to have kept: float32 `[_kept_size(call)]`."""
    rows, launch = _launch(call)
    kept = call.q.new_empty(_kept_size(call), dtype=torch.float32)
    y = torch.empty_like(rows.operands[2], dtype=call.v.dtype)
    passes.forward(*rows.operands, y, *_parts(call, kept), launch)
    return rows.own(y), kept


def backward(call: RecurrenceCall, y: Tensor, grad: Tensor, kept: Tensor, *none: Tensor) -> list[Tensor]:
    """Gradients of q, k, v, d and, with a state, of its k and y."""
    rows, launch = _launch(call)
    found = passes.backward(*rows.operands, *_parts(call, kept), rows.gradient(grad).contiguous(), launch)
    own = [rows.own(x).to(like.dtype) for x, like in zip(found, (call.q, call.k, call.v, call.d), strict=True)]
    return own if call.state is None else [*own, rows.slots(found[1]), rows.slots(found[2])]


def _kept_size(call: RecurrenceCall) -> int:
    """How many float32 numbers are kept for the backward pass; follows from shapes and dtypes alone."""
    return sum(_part_sizes(call))


def _part_sizes(call: RecurrenceCall) -> list[int]:
    """Of log_norm, of each head's largest input, of y as it is worked with: in float32 numbers, whole 16 bytes each."""
    (batch, length), (heads, width) = shape_of(call, _configuration(call).source.chunk), call.v.shape[2:]
    of_norm, of_y = norm_dtype(call.q.dtype).itemsize, work_dtype(call.q.dtype).itemsize
    lanes, rows = batch * heads, batch * heads * length
    return [-(-size // 16) * 4 for size in (of_norm * rows, 4 * lanes, of_y * rows * width)]


def _parts(call: RecurrenceCall, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """y_work `[B, L, H, V]`, log_norm `[B, H, L]` and largest `[B · H]` in `kept`."""
    (batch, length), (heads, width) = shape_of(call, _configuration(call).source.chunk), call.v.shape[2:]
    norms, largest, y_work = kept.split(_part_sizes(call))
    y_work = y_work.view(work_dtype(call.q.dtype))[: batch * length * heads * width]
    norms = norms.view(norm_dtype(call.q.dtype))[: batch * heads * length]
    return y_work.view(batch, length, heads, width), norms.view(batch, heads, length), largest[: batch * heads]


def _configuration(call: RecurrenceCall) -> Configuration:
    width = max(call.q.shape[3], call.v.shape[3])
    return configuration(call.q.dtype, width, isinstance(call.pattern, Dense))


def _launch(call: RecurrenceCall) -> tuple[Rows, passes.Launch]:
    shape = _configuration(call)
    rows = rows_of(call, shape.source.chunk)
    reach = reach_of(call.pattern, rows.operands[0].shape[1], shape, call.q.device)
    return rows, passes.Launch(shape, reach, rows.packed, call.scale)
