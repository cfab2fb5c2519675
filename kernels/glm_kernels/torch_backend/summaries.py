"""The recurrence of a sequence shard in torch: S identity columns beside V carry what the slots at its start bring.

As `kernel_interface.ShardKernel` says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from glm_kernels.kernel_interface import RecurrenceCall, ShardEnd
from glm_kernels.precision import accumulation_dtype
from glm_kernels.state import RecurrenceState
from glm_kernels.torch_backend import recurrence


@dataclass(frozen=True)
class _Kept:
    """The call in the accumulation dtype, with the true outputs in its state once they are known."""

    call: RecurrenceCall
    end: ShardEnd
    dtype: torch.dtype
    """Of the operands."""
    y: Tensor
    """`[B, L, H, V]`: for outputs of zero in the slots at first, then the true one."""
    rows: Tensor
    """`[B, L, H, S]`: how each row depends on the slots."""
    map: Tensor
    """M."""


def forward_local(call: RecurrenceCall, end: ShardEnd) -> tuple[Tensor, Tensor, _Kept]:
    """As `ShardKernel` says."""
    dtype = accumulation_dtype(call.q.dtype)
    state, width = call.state, call.v.shape[3]
    assert state is not None
    q, k, v, d = (x.to(dtype) for x in (call.q, call.k, call.v, call.d))
    identity = torch.eye(end.slots, dtype=dtype, device=q.device).expand(*state.y.shape[:2], -1, -1)
    state = RecurrenceState(state.k.to(dtype), state.y.to(dtype), state.position, state.room)
    exact = replace(call, q=q, k=k, v=v, d=d, state=state)
    both = replace(
        exact,
        v=torch.cat([v, v.new_zeros(*v.shape[:3], end.slots)], 3),
        state=state._replace(y=torch.cat([torch.zeros_like(state.y), identity], 3)),
    )
    (found,) = recurrence.forward(both)
    left = torch.where(end.stays[:, None, :, None], both.state.y, _left(found, end))  # type: ignore[union-attr]
    kept = _Kept(exact, end, call.q.dtype, found[..., :width], found[..., width:], left[..., width:])
    return kept.map, left[..., :width], kept


def forward_finish(kept: _Kept, boundary_y: Tensor) -> tuple[Tensor, _Kept]:
    """As `ShardKernel` says."""
    boundary_y = boundary_y.to(kept.y.dtype)
    y = kept.y + torch.einsum("blhs,bhsv->blhv", kept.rows, boundary_y)
    assert kept.call.state is not None
    state = kept.call.state._replace(y=boundary_y)
    return y.to(kept.dtype), replace(kept, y=y, call=replace(kept.call, state=state))


def backward_local(saved: _Kept, grad_y: Tensor) -> tuple[Tensor, Tensor, tuple[_Kept, Tensor]]:
    """As `ShardKernel` says."""
    grad_y = grad_y.to(saved.y.dtype)
    return saved.map.mT, torch.einsum("blhs,blhv->bhsv", saved.rows, grad_y), (saved, grad_y)


def backward_finish(kept: tuple[_Kept, Tensor], left_grad: Tensor) -> list[Tensor]:
    """As `ShardKernel` says."""
    saved, grad_y = kept
    end, left_grad = saved.end, left_grad.to(saved.y.dtype)
    batch = torch.arange(len(grad_y), device=grad_y.device).unsqueeze(1).expand_as(end.leaves)
    ours = (end.leaves >= 0)[:, None, :, None]
    received = left_grad.where(ours, 0).transpose(1, 2)
    grad_y = grad_y.index_put((batch, end.leaves.clamp(min=0)), received, accumulate=True)
    *found, dk, dy = recurrence.backward(saved.call, saved.y, grad_y)
    return [x.to(saved.dtype) for x in found] + [dk, dy + left_grad.where(end.stays[:, None, :, None], 0)]


def _left(x: Tensor, end: ShardEnd) -> Tensor:
    """`[B, L, H, D]` → `[B, H, S, D]`: the rows in slots at the shard's end, zero for none."""
    batch = torch.arange(len(x), device=x.device).unsqueeze(1)
    return x[batch, end.leaves.clamp(min=0)].transpose(1, 2).where((end.leaves >= 0)[:, None, :, None], 0)
