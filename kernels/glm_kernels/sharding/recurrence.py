"""A lifetime recurrence whose rows are spread over sequence shards: what each rank computes before and after it hears
from the others. Nothing here communicates.

A rank holds rows first_row … first_row + L − 1 of every batch row. Of earlier rows it needs what a decoder holds at its
first row, S slots with a key and an output each (`RecurrenceState`). Its outputs, and those that it leaves in the
slots, are affine in the outputs in the slots it starts from: Y' = M Y + N. So, forward:

1. Keys. Which row stands in which slot is known beforehand, and a row keeps its slot while it lives: every rank sends
   the keys that it leaves (`outgoing_keys`), and picks those that it needs (`boundary_keys`).
2. `forward_local`: all that needs no outputs of earlier ranks; M `[B, H, S, S]` and N `[B, H, S, V]` are among it.
3. Every rank folds the maps of the ranks before it (`compose`, `apply_map`), or gets the outputs in the slots from the
   rank before it. `forward_finish` then completes its rows.

Backward, from the last rank on: `backward_local` gives the map of adjoints (Mᵀ and a new term), `backward_finish` the
gradients once the adjoints of the outputs left in slots are known. Those of boundary keys belong to the ranks whose
rows they are: `sent_key_gradients` says which are whose, `add_key_gradients` adds what the others sent. Without it
everything but dk is right.

Source: the affine form is section 4 of this project's mathematics, after arXiv 2605.31367 for the patterns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from glm_kernels.checks import Backend, check_operands
from glm_kernels.dispatch import shard_kernel
from glm_kernels.kernel_interface import RecurrenceCall, ShardEnd
from glm_kernels.patterns import Lifetime, Pattern, parse_pattern
from glm_kernels.patterns.slots import rows_in_slots
from glm_kernels.state import RecurrenceState


@dataclass(frozen=True)
class Shard:
    """Where a rank's rows lie, and which rows stand in the slots at its two ends. Made by `shard_of`."""

    pattern: Lifetime
    first_row: int
    total: int
    """Rows of all shards."""
    starts: Tensor
    """int32 `[B, L]`: the row of this shard at which each row's document starts, 0 if that began before it."""
    position: Tensor
    """int64 `[B]`: rows that the document at the shard's first row has had before."""
    enters: Tensor
    """int64 `[B, S]`: the row of all rows in each slot at the start, −1 for none."""
    leaves: Tensor
    """int64 `[B, S]`: the row of this shard in each slot at the end, −1 for none of its own."""
    stays: Tensor
    """bool `[B, S]`: slots that hold at the end what they held at the start."""

    @property
    def length(self) -> int:
        """L."""
        return self.starts.shape[1]

    @property
    def slots(self) -> int:
        """S, the same on all ranks."""
        return self.enters.shape[1]


class Summary(NamedTuple):
    """The affine map Y ↦ M Y + N of a shard, fp32 (fp64 in fp64 work): M `[B, H, S, S]` and N `[B, H, S, V]`."""

    map: Tensor
    add: Tensor


@dataclass(frozen=True)
class Local:
    """What one half of a pass knows before it hears of the other shards."""

    summary: Summary
    kept: Any
    """For the second half: it is used up by it."""


def shard_of(
    pattern: Pattern | str,
    batch: int,
    first_row: int,
    length: int,
    total: int,
    *,
    document_starts: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Shard:
    """The rows first_row … first_row + length − 1 of `batch` rows of `total` tokens.

    document_starts: int `[B, L]`, the row of all rows at which the document of each of these rows starts, which may be
    on an earlier shard. Without it each batch row is one document. Raises ValueError for what is no lifetime pattern.
    """
    pattern = parse_pattern(pattern) if isinstance(pattern, str) else pattern
    if not isinstance(pattern, Lifetime):
        raise ValueError(f"pattern = {pattern}: only lifetime patterns (window, lattice, dense) have shard summaries")
    if not 0 <= first_row < first_row + length <= total:
        raise ValueError(f"rows {first_row} … {first_row + length - 1} are none, or beyond the total of {total}")
    if document_starts is None:
        document_starts = torch.zeros(batch, length, dtype=torch.int64, device=device)
    if document_starts.shape != (batch, length):
        raise ValueError(
            f"document_starts must have shape [B, L] = [{batch}, {length}], got {list(document_starts.shape)}"
        )
    starts = document_starts.to(device, torch.int64)
    position = (first_row - starts[:, 0]).clamp(min=0)
    slots = pattern.slot_count(total)
    entering = rows_in_slots(pattern, position, slots, total)
    enters = (starts[:, :1] + entering).where(entering >= 0, -1)

    last = starts[:, -1:]
    leaving = rows_in_slots(pattern, first_row + length - last.squeeze(1), slots, total + 1)
    leaves = (last + leaving - first_row).where(leaving >= 0, -1)
    stays = (leaving >= 0) & (leaves < 0)
    local = (starts - first_row).clamp(min=0).int()
    return Shard(pattern, first_row, total, local, position, enters, leaves.clamp(min=-1), stays)


def outgoing_keys(k: Tensor, shard: Shard) -> Tensor:
    """`[B, H, S, K]`: the keys of k `[B, L, H, K]` in slots at the shard's end; zero in slots of other shards' rows."""
    batch = torch.arange(len(k), device=k.device).unsqueeze(1)
    kept = k[batch, shard.leaves.clamp(min=0)].transpose(1, 2)
    return kept.masked_fill((shard.leaves < 0)[:, None, :, None], 0)


def boundary_keys(gathered: Tensor, shard: Shard) -> Tensor:
    """`[B, H, S, K]`: keys in slots at the shard's start, from all ranks' `outgoing_keys [ranks, B, H, S, K]`."""
    return (gathered * _owners(shard, len(gathered))).sum(0)


def sent_key_gradients(dboundary_k: Tensor, shard: Shard, ranks: int) -> Tensor:
    """`[ranks, B, H, S, K]`: what of the gradient of the boundary keys goes to whom; to be added up over ranks."""
    return dboundary_k * _owners(shard, ranks)


def add_key_gradients(dk: Tensor, received: Tensor, shard: Shard) -> Tensor:
    """dk `[B, L, H, K]` with the sum of what later ranks sent `[B, H, S, K]` for the keys that this one left."""
    found = dk.to(torch.promote_types(dk.dtype, torch.float32)).clone()
    batch = torch.arange(len(dk), device=dk.device).unsqueeze(1).expand_as(shard.leaves)
    ours = shard.leaves >= 0
    added = received.transpose(1, 2).masked_fill(~ours[:, :, None, None], 0).to(found.dtype)
    return found.index_put_((batch, shard.leaves.clamp(min=0)), added, accumulate=True).to(dk.dtype)


def _owners(shard: Shard, ranks: int) -> Tensor:
    """bool `[ranks, B, 1, S, 1]`: whose row stands in each slot at the shard's start. All shards have one length."""
    rank = torch.arange(ranks, device=shard.enters.device).view(ranks, 1, 1)
    owner = torch.div(shard.enters, shard.length, rounding_mode="floor")
    return (owner == rank)[:, :, None, :, None]


def apply_map(summary: Summary, y: Tensor) -> Tensor:
    """M y + N of y `[B, H, S, V]`. In float64, so that no setting can make it TF32."""
    return (summary.map.double() @ y.double() + summary.add.double()).to(summary.add.dtype)


def compose(later: Summary, earlier: Summary) -> Summary:
    """The map of two shards, one after the other."""
    return Summary((later.map.double() @ earlier.map.double()).to(later.map.dtype), apply_map(later, earlier.add))


def forward_local(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    d: Tensor,
    shard: Shard,
    boundary_k: Tensor,
    *,
    scale: float | None = None,
    backend: Backend = "auto",
) -> Local:
    """All of the forward pass that needs no outputs of earlier shards.

    q, k `[B, L, H, K]`, v `[B, L, H, V]`, d `[B, L, H]`: this shard's rows, as in `recurrence`; boundary_k
    `[B, H, S, K]`: keys in slots at its start (on the first shard anything). Raises ValueError on bad arguments.
    """
    check_operands(q, k, v, d, "d")
    batch, length, heads, key_dim = q.shape
    if (batch, length) != tuple(shard.starts.shape):
        raise ValueError(f"q must have shape [B, L, …] = {list(shard.starts.shape)} of the shard, got {list(q.shape)}")
    wanted = (batch, heads, shard.slots, key_dim)
    if tuple(boundary_k.shape) != wanted:
        raise ValueError(f"boundary_k must have shape [B, H, S, K] = {list(wanted)}, got {list(boundary_k.shape)}")
    state = RecurrenceState(boundary_k, boundary_k.new_zeros(*wanted[:3], v.shape[3]), shard.position, room=shard.total)
    q, k, v, d = (x.contiguous() for x in (q, k, v, d))
    scale = key_dim**-0.5 if scale is None else scale
    call = RecurrenceCall(q, k, v, d, shard.pattern, scale, None, shard.starts, state)
    kernel = shard_kernel(call, backend)
    map_, add, kept = kernel.forward_local(call, ShardEnd(shard.leaves, shard.stays))
    return Local(Summary(map_, add), (kernel, kept))


def forward_finish(local: Local, boundary_y: Tensor) -> tuple[Tensor, Any]:
    """y `[B, L, H, V]` in v's dtype, and what `backward_local` needs.

    boundary_y `[B, H, S, V]` fp32: the outputs in slots at the shard's start. Those at its end are
    `apply_map(local.summary, boundary_y)`.
    """
    kernel, kept = local.kept
    y, saved = kernel.forward_finish(kept, boundary_y)
    return y, (kernel, saved)


def backward_local(saved: Any, grad_y: Tensor) -> Local:
    """All of the backward pass that needs no adjoints of later shards, from the gradient of y.

    Its summary maps the adjoints of the outputs in slots at the shard's end to those at its start.
    """
    kernel, saved = saved
    map_, add, kept = kernel.backward_local(saved, grad_y.contiguous())
    return Local(Summary(map_, add), (kernel, kept))


def backward_finish(local: Local, left_grad: Tensor) -> list[Tensor]:
    """Gradients of q, k, v, d, boundary_k and boundary_y.

    left_grad `[B, H, S, V]` fp32: adjoints of the outputs in slots at the shard's end; zero on the last shard.
    """
    kernel, kept = local.kept
    found: list[Tensor] = kernel.backward_finish(kept, left_grad)
    return found
