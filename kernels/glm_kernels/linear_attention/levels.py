"""Log-linear attention in torch: quadratic in the length, with memory for a block of rows at a time.

The O(T log T) form needs blocks of 2^l positions to lie on rows that are the same for all documents, which packed ones
do not. Source of the definition: arXiv 2506.04761.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from glm_kernels.linear_attention.state import LevelState, bit_length, carried
from glm_kernels.linear_attention.sums import running_sums
from glm_kernels.precision import accumulation_dtype

BLOCK = 64
"""Rows whose scores are in memory together."""


def run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    level: Tensor,
    scale: float,
    document_starts: Tensor | None,
    state: LevelState | None,
    output_final_state: bool,
) -> tuple[Tensor, Tensor | None]:
    """y `[B, T, H, V]` in v's dtype, and the levels `[B, H, L, K, V]` after the last row. Operands as in `operators`.

    A state has one level for every bit b of its position p, the earliest rows that differ from p in that bit and in
    none above. Row t ≥ p reads them at the level of the highest bit in which it differs from them: b, or a higher one
    of t xor p.
    """
    dtype, length = accumulation_dtype(q.dtype), q.shape[1]
    heads = [x.to(dtype).transpose(1, 2) for x in (scale * q, k, v, level)]
    sums = running_sums(log_decay.transpose(1, 2))
    rows = torch.arange(length, device=q.device)
    starts = rows.new_zeros(len(q), length) if document_starts is None else document_starts
    before = rows.new_zeros(len(q)) if state is None else state.position
    positions = rows - starts + before.unsqueeze(1).where(starts == 0, 0)

    y = torch.cat(
        [
            _block(slice(begin, min(begin + BLOCK, length)), heads, sums, starts, positions)
            for begin in range(0, length, BLOCK)
        ],
        2,
    )
    past = None if state is None else carried(state._replace(levels=state.levels.to(dtype)))
    if past is not None:
        y = y + _read(past, heads, sums, starts, positions, before)
    final = _final(past, heads, sums, starts, positions, before) if output_final_state else None
    return y.transpose(1, 2).to(v.dtype).contiguous(), final


def _block(here: slice, heads: list[Tensor], sums: Tensor, starts: Tensor, positions: Tensor) -> Tensor:
    """`[B, H, R, V]`: what R rows read of those up to the last of them."""
    (q, k, v, level), end = heads, here.stop
    rows = torch.arange(end, device=q.device)
    own = (rows >= starts[:, here, None]) & (rows <= rows[here, None])  # [B, R, J]
    of = bit_length((positions[:, here, None] ^ positions[:, None, :end]).masked_fill(~own, 0)).unsqueeze(1)
    heard = level[:, :, here].gather(3, of.expand(-1, q.shape[1], -1, -1))
    decays = (sums[:, :, here, None] - sums[:, :, None, :end]).masked_fill(~own.unsqueeze(1), -torch.inf)
    return (q[:, :, here] @ k[:, :, :end].mT * heard * decays.to(q.dtype).exp()) @ v[:, :, :end]


def _read(past: Tensor, heads: list[Tensor], sums: Tensor, starts: Tensor, positions: Tensor, before: Tensor) -> Tensor:
    """`[B, H, T, V]`: what rows of the documents that go on read of the levels `[B, H, L, K, V]` of their past."""
    q, _, _, level = heads
    highest = bit_length(positions ^ before.unsqueeze(1)).clamp(max=level.shape[3] - 1)
    own = torch.arange(level.shape[3], device=q.device)
    heard = level.gather(3, torch.maximum(own, highest.unsqueeze(2)).unsqueeze(1).expand_as(level))
    decays = sums.masked_fill((starts > 0).unsqueeze(1), -torch.inf).to(q.dtype).exp()
    return sum(  # level by level, lest a state be made for every row
        (q * (decays * heard[..., number]).unsqueeze(3)) @ past[:, :, number] for number in range(level.shape[3])
    )  # type: ignore[return-value]


def _final(
    past: Tensor | None, heads: list[Tensor], sums: Tensor, starts: Tensor, positions: Tensor, before: Tensor
) -> Tensor:
    """`[B, H, L, K, V]`: what the last document holds, seen from its last row."""
    q, k, v, level = heads
    count, last = level.shape[3], positions[:, -1:]
    own = torch.arange(q.shape[2], device=q.device) >= starts[:, -1:]
    decays = (sums[:, :, -1:] - sums).masked_fill(~own.unsqueeze(1), -torch.inf).to(q.dtype).exp()
    of = bit_length((positions ^ last).masked_fill(~own, 0))
    parts = [(k * (decays * (of == number).unsqueeze(1)).unsqueeze(3)).mT @ v for number in range(count)]
    held = torch.stack(parts, 2)
    if past is None:
        return held
    highest = bit_length((last ^ before.unsqueeze(1)).where(starts[:, -1:] == 0, 0)).clamp(max=count - 1)
    moved = one_hot(torch.maximum(torch.arange(count, device=q.device), highest), count).to(q.dtype)  # [B, L, L']
    whole = sums[:, :, -1].masked_fill((starts[:, -1:] > 0), -torch.inf).to(q.dtype).exp()
    return held + whole[:, :, None, None, None] * torch.einsum("blm,bhlkv->bhmkv", moved, past)
