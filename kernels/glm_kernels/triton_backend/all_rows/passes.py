"""The launches of dense and offset recurrences, one by one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from glm_kernels.triton_backend.all_rows.backward import adjoint_pass, gradient_pass
from glm_kernels.triton_backend.all_rows.configuration import Case, Configuration, Pass, Reach
from glm_kernels.triton_backend.all_rows.forward import source_pass
from glm_kernels.triton_backend.all_rows.rows import PackedRows
from glm_kernels.triton_backend.all_rows.tiles import largest_pass
from glm_kernels.triton_backend.common.tiles import padded_width

_PRECISION = {torch.bfloat16: "tf32", torch.float16: "tf32x3", torch.float32: "ieee"}
"""Of products of float32 tiles: there are none with bfloat16 operands."""


@dataclass(frozen=True)
class Launch:
    """Everything that forward and backward launches share."""

    shape: Configuration
    reach: Reach
    documents: PackedRows | None
    scale: float


def _case(launch: Launch, chosen: Pass, q: Tensor, v: Tensor, *, readers: bool = False, whole: bool = False) -> Case:
    """Of the kernel that is launched as `chosen`."""
    key_dim, value_dim = q.shape[3], v.shape[3]
    return Case.of(
        C=chosen.chunk, BLOCK=chosen.tile, UNIT=launch.shape.source.chunk, STAGES=chosen.stages,
        DENSE=launch.reach.dense, FAR=len(launch.reach.far) > 1, DOCUMENTS=launch.documents is not None,
        K=key_dim, V=value_dim, K2=padded_width(key_dim), V2=padded_width(value_dim),
        PRECISION=_PRECISION[q.dtype], WHOLE=whole, READERS=readers,
    )  # fmt: skip


def _fill_largest(x: Tensor, largest: Tensor) -> None:
    """Writes max |x| of each lane of `[B, L, H, V]` into `[B · H]`."""
    batch, length, heads, width = x.shape
    rows, steps = 32, 8
    largest_pass[(triton.cdiv(length, rows * steps), batch * heads)](
        x, largest.zero_(), length, heads,
        ROWS=rows, STEPS=steps, V=width, V2=padded_width(width), num_warps=4,
    )  # fmt: skip


def _chain(launch: Launch, x: Tensor) -> tuple[tuple[int], tuple[Tensor, Tensor]]:
    """Grid and (ticket counter, progress of every lane) of a chained launch over rows `[B, L, H, ·]`."""
    batch, length, heads = x.shape[:3]
    counters = torch.zeros(batch * heads + 1, dtype=torch.int32, device=x.device)
    return (triton.cdiv(length, launch.shape.source.chunk) * batch * heads,), (counters[:1], counters[1:])


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
    shape, reach, documents = launch.shape, launch.reach, launch.documents
    _fill_largest(v, largest)
    grid, counters = _chain(launch, q)
    source_pass[grid](
        q, k, v, d, y, y_work, log_norm, largest, documents.starts if documents else reach.far,
        reach.near_bits[0], reach.far, reach.far_before, *counters,
        length, heads, batch * heads, reach.together, reach.near, launch.scale,
        CASE=_case(launch, shape.source, q, v), num_warps=shape.source.warps,
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
    shape, reach, documents = launch.shape, launch.reach, launch.documents
    whole = length % max(shape.source.chunk, shape.gradient.chunk) == 0
    starts, ends = (documents.starts, documents.ends) if documents else (reach.far, reach.far)
    largest_grad = torch.empty_like(largest)
    _fill_largest(grad, largest_grad)
    z_work = torch.empty_like(y_work)
    dq, dk, dv, dd = (torch.empty_like(x) for x in (q, k, v, d))
    row_term = torch.empty_like(log_norm, dtype=torch.float32)
    headroom = length.bit_length()  # every row's adjoint may gather those of all later rows
    grid, counters = _chain(launch, q)
    adjoint_pass[grid](
        q, k, v, d, y_work, grad, log_norm, z_work, dv, row_term, largest, largest_grad,
        starts, ends, reach.near_bits[1], reach.far, reach.far_before, *counters,
        length, heads, batch * heads, reach.together, reach.near, headroom, launch.scale,
        CASE=_case(launch, shape.adjoint, q, v, whole=whole), num_warps=shape.adjoint.warps,
    )  # fmt: skip
    for out, readers in ((dq, False), (dk, True)):
        gradient_pass[(triton.cdiv(length, shape.gradient.chunk), batch * heads)](
            q, k, v, d, y_work, z_work, log_norm, row_term, out, dd, largest, largest_grad,
            starts, ends, reach.near_bits[int(readers)], reach.far, reach.far_before,
            length, heads, reach.near, headroom, launch.scale,
            CASE=_case(launch, shape.gradient, q, v, readers=readers, whole=whole), num_warps=shape.gradient.warps,
        )  # fmt: skip
    return [dq, dk, dv, dd]
