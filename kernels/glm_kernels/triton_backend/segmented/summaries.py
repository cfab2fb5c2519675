"""The lifetime recurrence of a sequence shard in Triton: as `launch`, but what its last rows leave stays in slots.

As `kernel_interface.ShardKernel` says. Nothing is computed twice: rows for nothing entering and their maps are what
`segment_pass` stores in any case, and M and N their segments' maps composed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from glm_kernels.kernel_interface import RecurrenceCall, ShardEnd
from glm_kernels.triton_backend.common.tables import FREE, FROM_STATE, Tables
from glm_kernels.triton_backend.segmented.launch import planned
from glm_kernels.triton_backend.segmented.passes import Launch, Maps


@dataclass(frozen=True)
class _Forward:
    launch: Launch
    y: Tensor
    lse: Tensor
    maps: Maps
    map: Tensor
    """M."""


@dataclass(frozen=True)
class _Saved:
    launch: Launch
    y: Tensor
    lse: Tensor
    boundary_y: Tensor
    map: Tensor


@dataclass(frozen=True)
class _Backward:
    saved: _Saved
    z: Tensor
    maps: Maps


def forward_local(call: RecurrenceCall, end: ShardEnd) -> tuple[Tensor, Tensor, _Forward]:
    """As `ShardKernel` says."""
    launch = _leaving(planned(call), end)
    y, lse, maps = launch.maps()
    _, add = launch.folded(maps, finish=True)
    map_ = launch.composed(maps)
    return map_, add, _Forward(launch, y, lse, maps, map_)


def forward_finish(kept: _Forward, boundary_y: Tensor) -> tuple[Tensor, _Saved]:
    """As `ShardKernel` says."""
    boundary_y = boundary_y.float().contiguous()
    boundary, _ = kept.launch.folded(kept.maps, boundary_y)
    kept.launch.complete(kept.y, kept.maps, boundary)
    return kept.y, _Saved(kept.launch, kept.y, kept.lse, boundary_y, kept.map)


def backward_local(saved: _Saved, grad_y: Tensor) -> tuple[Tensor, Tensor, _Backward]:
    """As `ShardKernel` says."""
    z, maps = saved.launch.adjoint_maps(saved.lse, grad_y)
    _, add = saved.launch.folded(maps, finish=True, backward=True)
    return saved.map.mT, add, _Backward(saved, z, maps)


def backward_finish(kept: _Backward, left_grad: Tensor) -> list[Tensor]:
    """As `ShardKernel` says."""
    saved = kept.saved
    left_grad = left_grad.float().contiguous()
    boundary, dy = saved.launch.folded(kept.maps, left_grad, finish=True, backward=True)
    return [*saved.launch.gradients(saved.y, saved.lse, kept.z, kept.maps, boundary, saved.boundary_y), dy]


def _leaving(launch: Launch, end: ShardEnd) -> Launch:
    """The same with tables in which the last segments end with what the shard leaves in its slots."""
    tables, grid, length = launch.tables, launch.grid, launch.q.shape[1]
    first = torch.arange(len(end.leaves), device=end.leaves.device).unsqueeze(1) * length
    left = (end.leaves + first).where(end.leaves >= 0, FREE).masked_fill(end.stays, FROM_STATE).int()
    left = torch.nn.functional.pad(left, (0, grid.slots - left.shape[1]), value=FREE)
    left = left[tables.segments[:, 3].long()]

    # Chunks without rows hand on what the last rows left, and nothing of it is read there.
    heads = tables.segments[:, :1] + torch.arange(grid.chunks, device=left.device) * grid.chunk
    beyond = (heads >= tables.segments[:, 1:2]).view(-1, 1)
    occupant = torch.where(beyond, left.repeat_interleave(grid.chunks, 0), tables.occupant[:-1])
    reader = tables.occupant_last[:-1].masked_fill(beyond, FREE)

    # Behind all chunks a line for the end of every segment: what the next one begins with, if there is a next one.
    following = occupant[:: grid.chunks].roll(-1, 0)
    is_last = tables.segments[:, :1] + grid.segment >= tables.segments[:, 1:2]
    ends = torch.where(is_last, left, following)
    lines = torch.cat([occupant, ends]), torch.cat([reader, torch.full_like(ends, FREE)])
    patched = Tables(tables.last, *lines, tables.segments, tables.sequences, tables.order)
    return replace(launch, tables=patched, ends=len(occupant), end_lines=1)
