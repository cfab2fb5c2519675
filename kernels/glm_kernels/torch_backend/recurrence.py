"""The structured recurrence in torch: from the public layout to lines of sources and back, and one step of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from glm_kernels.kernel_interface import RecurrenceCall
from glm_kernels.patterns import Dense, Pattern
from glm_kernels.precision import accumulation_dtype
from glm_kernels.state import RecurrenceState, grown
from glm_kernels.torch_backend import chunkwise
from glm_kernels.torch_backend.sources import Sources, sources_of

CHUNK = 64


@dataclass(frozen=True)
class _Lines:
    """A call in the layout of `chunkwise`: B·H lines of sources, whole chunks, the accumulation dtype."""

    q: Tensor
    k: Tensor
    v: Tensor
    d: Tensor
    y_prefix: Tensor
    sources: Sources

    @classmethod
    def of(cls, call: RecurrenceCall) -> _Lines:
        batch, length = call.q.shape[:2]
        documents, state, dtype = call.documents, call.state, accumulation_dtype(call.q.dtype)
        carried = len(documents.entry)
        initial = documents.entry.new_zeros(carried) if state is None else state.position
        prefix = 0 if state is None else state.k.shape[2] * (carried // batch)
        chunk = min(CHUNK, 1 << (length - 1).bit_length())
        sources = sources_of(call.pattern, documents, documents.positions(initial), initial, prefix, chunk)
        q, k, v, d = (_lines(x.to(dtype), chunk) for x in (call.q, call.k, call.v, call.d.unsqueeze(3)))
        y_prefix = v[:, :0]
        if state is not None:
            y_prefix = _state_lines(state.y.to(dtype), batch)
            k = torch.cat([_state_lines(state.k.to(dtype), batch), k], 1)
        return cls(call.scale * q, k, v, d, y_prefix, sources)

    def solve(self) -> Tensor:
        """The outputs of all sources, those of the initial state in front."""
        return chunkwise.forward(self.q, self.k, self.v, self.d, self.y_prefix, self.sources)


def forward(call: RecurrenceCall) -> tuple[Tensor]:
    """As `RecurrenceKernel` says."""
    lines = _Lines.of(call)
    return (_rows(lines.solve()[:, lines.sources.prefix :], call.v),)


def backward(call: RecurrenceCall, y: Tensor, grad: Tensor, *kept: Tensor) -> list[Tensor]:
    """As `RecurrenceKernel` says. Outputs that were rounded to 16 bits are computed again."""
    lines = _Lines.of(call)
    chunk, prefix = lines.sources.chunk, lines.sources.prefix
    exact = y.dtype == lines.v.dtype
    all_y = torch.cat([lines.y_prefix, _lines(y, chunk)], 1) if exact else lines.solve()
    dq, dk, dv, dd, dy_prefix = chunkwise.backward(
        lines.q, lines.k, lines.v, lines.d, all_y, _lines(grad.to(lines.v.dtype), chunk), lines.sources
    )
    found = [
        _rows(call.scale * dq, call.q), _rows(dk[:, prefix:], call.k), _rows(dv, call.v),
        _rows(dd, call.d.unsqueeze(3)).squeeze(3),
    ]  # fmt: skip
    if call.state is not None:
        found += [_slots(dk[:, :prefix], call.state.k), _slots(dy_prefix, call.state.y)]
    return found


def _lines(x: Tensor, chunk: int) -> Tensor:
    """`[B, T, H, D]` → `[B·H, T, D]`, contiguous, T filled up with zeros to whole chunks."""
    return pad(x.transpose(1, 2).flatten(0, 1), (0, 0, 0, -x.shape[1] % chunk)).contiguous()


def _rows(x: Tensor, like: Tensor) -> Tensor:
    """The inverse of `_lines`, in the shape and dtype of `like`, contiguous."""
    batch, length, heads, _ = like.shape
    return x[:, :length].unflatten(0, (batch, heads)).transpose(1, 2).to(like.dtype).contiguous()


def _state_lines(x: Tensor, batch: int) -> Tensor:
    """`[N, H, S, D]` → `[B·H, (N/B)·S, D]`: the slots of a batch row's documents one behind the other."""
    carried, heads, slots, width = x.shape
    return x.view(batch, carried // batch, heads, slots, width).transpose(1, 2).reshape(batch * heads, -1, width)


def _slots(x: Tensor, like: Tensor) -> Tensor:
    """The inverse of `_state_lines`, in the shape and dtype of `like`, contiguous."""
    carried, heads, slots, width = like.shape
    x = x.view(len(x) // heads, heads, carried * heads // len(x), slots, width).transpose(1, 2)  # S may be 0
    return x.reshape(like.shape).to(like.dtype).contiguous()


def step(
    q: Tensor, k: Tensor, v: Tensor, d: Tensor | None, pattern: Pattern, scale: float, state: RecurrenceState
) -> tuple[Tensor, RecurrenceState]:
    """One row that continues the state, of checked arguments; shapes as in `glm_kernels.recurrence_step`.

    Without d it is a row of attention: the state's y are values, the own row weighs as q and k say, and several heads
    of queries may have a key and a value together.
    """
    positions = state.position.tolist()
    if state.room is not None and max(positions) >= state.room:
        raise ValueError(f"the state has room for {state.room} tokens and has seen {max(positions)}")
    state = grown(state, max(pattern.slot_count(p + 1) for p in positions))
    dtype = accumulation_dtype(state.y.dtype)
    reads, slot = _reads_of_step(pattern, positions, state.k.shape[2], q.device)
    query, key, value = (x[:, 0].to(dtype) for x in (q, k, v))
    groups = key.shape[1], -1
    query = query.unflatten(1, groups)
    scores = scale * torch.einsum("ngrk,ngsk->ngrs", query, state.k.to(dtype))
    scores = scores.masked_fill_(~reads[:, None, None], -torch.inf)
    own = scale * (query * key.unsqueeze(2)).sum(3) if d is None else d[:, 0].to(dtype).unflatten(1, groups)
    weights = torch.cat([own.unsqueeze(3), scores], 3).softmax(3)
    # A free slot may hold anything, NaN included, so it is not enough that its weight is zero.
    rows = state.y.masked_fill(~reads[:, None, :, None], 0).to(dtype)
    y = weights[..., :1] * value.unsqueeze(2) + torch.einsum("ngrs,ngsv->ngrv", weights[..., 1:], rows)
    y = y.flatten(1, 2)
    n = torch.arange(len(positions), device=q.device)
    state.k[n, :, slot] = key.to(state.k.dtype)
    state.y[n, :, slot] = (value if d is None else y).to(state.y.dtype)
    return y.unsqueeze(1).to(v.dtype), state._replace(position=state.position + 1)


def _reads_of_step(pattern: Pattern, positions: list[int], slots: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """bool `[N, S]`, the slots that the next row of each document reads, and int64 `[N]`, the slot it is put in."""
    reads = torch.zeros(len(positions), slots, dtype=torch.bool)
    for n, position in enumerate(positions):
        all_before = isinstance(pattern, Dense)
        reads[n, slice(position) if all_before else pattern.slots(position)[pattern.reads(position)]] = True
    slot = torch.stack([pattern.slots(position + 1)[position] for position in positions])
    return reads.to(device), slot.to(device)
