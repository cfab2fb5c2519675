"""Gated linear attention and the gated delta rule, chunk by chunk: linear in what is written, whatever the decays.

Inside a chunk that the state h enters, with G the sums of its log decays up to each row, every row writes k_t u_tᵀ:

    u_t = β_t (v_t − (k_t e^{G_t})ᵀ h − Σ_{j<t} Σ_c k_tc k_jc e^{G_tc − G_jc} u_j)
    y_t = scale · ((q_t e^{G_t})ᵀ h + Σ_{j≤t} Σ_c q_tc k_jc e^{G_tc − G_jc} u_j)

The first is a unit lower triangular system, solved once for the part without h and the part that h is multiplied by;
without β, u = v. So a chunk is an affine map of h, all chunks' maps are found at once, and only a small product a chunk
is left to do one after the other. Source: the WY form of DeltaNet, arXiv 2406.06484; with decays arXiv 2412.06464 and,
for one decay a channel, arXiv 2510.26692; secondary chunks for decays a channel, arXiv 2312.06635.

No e^{−G}: every exponent is a sum of log decays between two rows, so that none exceeds 0 where the state fades, however
fast it does. Those sums are differences of running ones, which are in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from glm_kernels.linear_attention.sums import running_sums
from glm_kernels.precision import accumulation_dtype

CHUNK = 64
BLOCK = 16
"""Rows of a chunk, and of the parts in which products of rows are taken channel by channel."""


class Chunks(NamedTuple):
    """What N chunks of C rows do to the states that enter them: y = outputs + reads h, h' = map h + added."""

    outputs: Tensor
    """`[B, H, N, C, V]`."""
    reads: Tensor
    """`[B, H, N, C, K]`."""
    map: Tensor
    """`[B, H, N, K, K]`, or its diagonal `[B, H, N, K or 1]` without β."""
    added: Tensor
    """`[B, H, N, K, V]`."""


def run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor | None,
    scale: float,
    document_starts: Tensor | None,
    state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """y `[B, T, H, V]` in v's dtype, and the state after the last row in `accumulation_dtype`. Operands as in
    `operators`."""
    chunks = chunks_of(q, k, v, log_decay, beta, scale, document_starts)
    if state is None:
        state = torch.zeros_like(chunks.added[:, :, 0])
    return rows_and_final(chunks, state, v)


def rows_and_final(chunks: Chunks, state: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The same of chunks and the state that enters the first; v: for the length and the dtype of y."""
    states = _through(chunks.map, chunks.added, state.to(chunks.added.dtype))
    y = chunks.outputs + chunks.reads @ torch.stack(states[:-1], 2)
    return y.flatten(2, 3)[:, :, : v.shape[1]].transpose(1, 2).to(v.dtype).contiguous(), states[-1]


def summary(chunks: Chunks) -> tuple[Tensor, Tensor]:
    """(P, added) with which all the chunks together do h ↦ P h + added; P `[B, H, K, K]`, or `[B, H, K or 1]`."""
    zero = torch.zeros_like(chunks.added[:, :, 0])
    if chunks.map.ndim == 4:
        return chunks.map.prod(2), _through(chunks.map, chunks.added, zero)[-1]
    identity = torch.eye(zero.shape[2], dtype=zero.dtype, device=zero.device).expand(*zero.shape[:2], -1, -1)
    both = torch.cat([chunks.added, torch.zeros_like(chunks.map)], 4)
    added, whole = _through(chunks.map, both, torch.cat([zero, identity], 3))[-1].split(
        [zero.shape[3], zero.shape[2]], 3
    )
    return whole, added


def applied(map_: Tensor, state: Tensor, adjoint: bool = False) -> Tensor:
    """A chunk's or a shard's map, or its transpose, of states `[…, K, V]`."""
    if map_.ndim < state.ndim:
        return map_.unsqueeze(-1) * state
    return (map_.mT if adjoint else map_) @ state


def _through(maps: Tensor, added: Tensor, state: Tensor) -> list[Tensor]:
    """The states before, between and after chunks."""
    states = [state]
    for map_, more in zip(maps.unbind(2), added.unbind(2), strict=True):
        states.append(applied(map_, states[-1]) + more)
    return states


def chunks_of(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor | None,
    scale: float,
    document_starts: Tensor | None,
) -> Chunks:
    """The maps of all chunks; rows that fill up the last one write nothing and let the state pass."""
    length, dtype = q.shape[1], accumulation_dtype(q.dtype)
    size = min(CHUNK, 1 << (length - 1).bit_length())
    q, k, v = (_cut(x.to(dtype), size) for x in (q, k, v))
    sums = running_sums(_cut(log_decay, size).movedim(3, -1)).movedim(-1, 3)  # [B, H, N, C], or [B, H, N, C, K]
    own, enters, leaves = _documents(document_starts, len(q), length, size, q.device)

    scores = _by_channel if sums.ndim == 5 else _by_head
    of_queries, of_keys = scores(torch.stack([scale * q, k]), k, sums, own)
    sums = sums if sums.ndim == 5 else sums.unsqueeze(4)
    from_start = _decays(sums, enters[..., None], dtype)
    to_end = _decays(sums[:, :, :, -1:] - sums, leaves[..., None], dtype)
    passing = _decays(sums[:, :, :, -1], enters[:, :, :, -1:], dtype)
    written, taken = v, None
    if beta is not None:
        strength = _cut(beta.to(dtype), size).unsqueeze(4)
        system = (strength * of_keys).tril(-1)
        known = strength * torch.cat([v, k * from_start], 4)
        solved = torch.linalg.solve_triangular(system, known, upper=False, unitriangular=True)
        written, taken = solved.split([v.shape[4], k.shape[4]], 4)
    left = (k * to_end).mT
    reads = scale * q * from_start
    if taken is None:
        return Chunks(of_queries @ written, reads, passing, left @ written)
    map_ = torch.diag_embed(passing.expand(*passing.shape[:3], k.shape[4])) - left @ taken
    return Chunks(of_queries @ written, reads - of_queries @ taken, map_, left @ written)


def _cut(x: Tensor, size: int) -> Tensor:
    """`[B, T, H, …]` to chunks `[B, H, N, C, …]`, filled up with zeros."""
    x = x.transpose(1, 2)
    return pad(x, (0, 0) * (x.ndim - 3) + (0, -x.shape[2] % size)).unflatten(2, (-1, size))


def _documents(
    starts: Tensor | None, batch: int, length: int, size: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Which rows row i may read `[B, 1, N, C, C]`; which rows are of the document that the chunk begins in the middle
    of, or that continues the initial state, and which of the one that it ends with, `[B, 1, N, C]`."""
    whole = length + -length % size
    rows = torch.arange(whole, device=device).view(1, -1, size)
    if starts is None:
        starts = torch.zeros(batch, length, dtype=torch.int64, device=device)
    starts = torch.cat([starts, starts[:, -1:].expand(-1, whole - length)], 1).unflatten(1, (-1, size))
    own = (starts.unsqueeze(3) <= rows.unsqueeze(2)).tril()
    enters = (starts < rows[:, :, :1]) | (starts == 0)
    leaves = starts[:, :, -1:] <= rows
    return own.unsqueeze(1), enters.unsqueeze(1), leaves.unsqueeze(1)


def _decays(exponents: Tensor, there: Tensor, dtype: torch.dtype) -> Tensor:
    """e^exponents, and 0 where there is nothing to decay."""
    return exponents.masked_fill(~there, -torch.inf).to(dtype).exp()


def _by_head(left: Tensor, k: Tensor, sums: Tensor, own: Tensor) -> Tensor:
    """`[2, B, H, N, C, C]`: the products of rows of `left [2, B, H, N, C, K]` with the keys that they read, decayed."""
    return left @ k.mT * _decays(sums.unsqueeze(4) - sums.unsqueeze(3), own, k.dtype)


def _by_channel(left: Tensor, k: Tensor, sums: Tensor, own: Tensor) -> Tensor:
    """The same where every channel has its decay, sums `[B, H, N, C, K]`.

    Rows of a block with keys before it: both decay towards the block's beginning, which lies between them. Within a
    block: channel by channel.
    """
    size = k.shape[3]
    block = min(BLOCK, size)
    parts = (size // block, block)
    sums_of, keys_of, left_of = sums.unflatten(3, parts), k.unflatten(3, parts), left.unflatten(4, parts)
    begins = pad(sums_of[:, :, :, :-1, -1], (0, 0, 1, 0))  # [B, H, N, R, K]
    rows = torch.arange(size, device=k.device)
    before = (rows < block * torch.arange(parts[0], device=k.device).unsqueeze(1)).unsqueeze(2)  # [R, C, 1]

    until = _decays(begins.unsqueeze(4) - sums.unsqueeze(3), before, k.dtype)  # [B, H, N, R, C, K]
    since = (sums_of - begins.unsqueeze(4)).to(k.dtype).exp()
    earlier = (left_of * since) @ (k.unsqueeze(3) * until).mT  # [2, B, H, N, R, 16, C]

    within = torch.ones(block, block, dtype=torch.bool, device=k.device).tril().unsqueeze(2)
    between = _decays(sums_of.unsqueeze(5) - sums_of.unsqueeze(4), within, k.dtype)  # [B, H, N, R, 16, 16, K]
    decayed = between * keys_of.unsqueeze(4)
    beside = (decayed @ left_of.unsqueeze(-1)).squeeze(-1)  # [2, B, H, N, R, 16, 16]

    same = torch.eye(parts[0], dtype=k.dtype, device=k.device)[:, None, :, None]
    both = earlier.unflatten(6, parts) + beside.unsqueeze(6) * same
    return both.flatten(6, 7).flatten(4, 5).masked_fill(~own, 0)
