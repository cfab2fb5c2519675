"""The structured recurrence chunk by chunk, forward and backward, with memory linear in T.

With T = (I − P)^-1 for the coefficients P inside a chunk and P_S for those on earlier rows, a chunk's outputs are
Y_c = T (diag(α) V_c + P_S Y_S). Coefficients and inverses are computed for a group of chunks at once; only the product
with Y_S goes chunk by chunk. The backward pass solves the transposed system in reverse order: with Ĝ the gradient
of the outputs including what later rows send back, Z_c = Tᵀ Ĝ_c and Ĝ_S += P_Sᵀ Z_c. It recomputes the coefficients.

One code serves lifetimes (the rows of a chunk share one list of sources), dense recurrence (that list is every
earlier row) and offsets (every row has its own list).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from glm_kernels.torch_backend.sources import GroupSources, Sources

# Elements of a group's temporaries. A group that stays in the processor's cache runs faster than a large one.
_GROUP_ELEMENTS = 1 << 21


@dataclass(frozen=True)
class _Coefficients:
    """Softmax of one group, `[G, N, …]` for N = B·H: α, P inside the chunk, P_S on the lists, and T = (I − P)^-1."""

    alpha: Tensor
    inside: Tensor
    outside: Tensor
    inverse: Tensor


class _Group:
    """One group of chunks: its slice of every tensor, with the chunk in front so that each chunk is contiguous."""

    def __init__(self, sources: Sources, first: int, chunks: int, lines: int, source_rows: int) -> None:
        self.chunk, self.chunks, self.lines = sources.chunk, chunks, lines
        self.rows = slice(first * sources.chunk, (first + chunks) * sources.chunk)
        self.sources = slice(sources.prefix + self.rows.start, sources.prefix + self.rows.stop)
        self.reads: GroupSources = sources.group(first, chunks)
        lists = self.reads.lists
        self.list_count, self.entries = lists.shape[2:]
        self.sharing = self.chunk // self.list_count
        per_line = lists.repeat_interleave(lines // lists.shape[1], 1)
        line = torch.arange(lines, device=lists.device).view(1, lines, 1, 1)
        self.flat = (per_line + line * source_rows).view(chunks, -1)
        """int64 `[G, N·L·S]`: the lists as rows of a `[N·E, ·]` table."""

    def take(self, x: Tensor, rows: slice) -> Tensor:
        """`[N, rows, D]` → `[G, N, C, D]`."""
        return x[:, rows].reshape(self.lines, self.chunks, self.chunk, -1).transpose(0, 1).contiguous()

    def put(self, out: Tensor, x: Tensor) -> None:
        """The inverse of `take` for this group's rows."""
        out[:, self.rows].view(self.lines, self.chunks, self.chunk, -1).copy_(x.transpose(0, 1))

    def listed(self, table: Tensor) -> Tensor:
        """`[N, E, D]` → `[G, N·L, S, D]`: the rows on every list."""
        rows = table.flatten(0, 1).index_select(0, self.flat.flatten())
        return rows.view(self.chunks, self.lines * self.list_count, self.entries, table.shape[2])

    def times_list(self, x: Tensor, rows: Tensor) -> Tensor:
        """`[G, N, C, D]` with the listed rows `[G, N·L, S, D]` → inner products `[G, N, C, S]`."""
        folded = x.view(self.chunks, self.lines * self.list_count, self.sharing, x.shape[3])
        return (folded @ rows.transpose(2, 3)).view(self.chunks, self.lines, self.chunk, self.entries)

    def over_list(self, weights: Tensor, rows: Tensor) -> Tensor:
        """Weights `[G, N, C, S]` over listed rows `[G, N·L, S, D]` → their sums `[G, N, C, D]`."""
        folded = weights.reshape(self.chunks, self.lines * self.list_count, self.sharing, self.entries)
        return (folded @ rows).view(self.chunks, self.lines, self.chunk, rows.shape[3])

    def onto_list(self, weights: Tensor, x: Tensor) -> Tensor:
        """The adjoint of `over_list`: `[G, N, C, S]` and `[G, N, C, D]` → `[G, N·L·S, D]`."""
        folded = weights.reshape(weights.shape[0] * self.lines * self.list_count, self.sharing, self.entries)
        sums = folded.transpose(1, 2) @ x.reshape(len(folded), self.sharing, x.shape[3])
        return sums.view(len(weights), len(folded) // len(weights) * self.entries, x.shape[3])

    def coefficients(self, q: Tensor, k: Tensor, d: Tensor, listed_k: Tensor) -> _Coefficients:
        """`q` scaled; one softmax over the input's logit, the rows inside the chunk and the listed rows."""
        heads = self.lines // self.reads.inside.shape[1]
        allowed = torch.cat([self.reads.inside, self.reads.allowed], 3).repeat_interleave(heads, 1)
        scores = torch.cat([q @ k.transpose(2, 3), self.times_list(q, listed_k)], 3).masked_fill_(~allowed, -torch.inf)
        weights = torch.cat([d, scores], 3).softmax(3)
        inside = weights[..., 1 : 1 + self.chunk]
        identity = torch.eye(self.chunk, dtype=q.dtype, device=q.device)
        inverse = torch.linalg.solve_triangular(
            identity - inside, identity.expand_as(inside), upper=False, unitriangular=True
        )
        return _Coefficients(weights[..., :1], inside, weights[..., 1 + self.chunk :], inverse)


def _groups(
    sources: Sources, length: int, lines: int, width: int, source_rows: int, reverse: bool = False
) -> Iterator[_Group]:
    """The groups of a padded length, each small enough to stay in cache (but of one chunk at least)."""
    chunk, entries = sources.chunk, sources.entries
    per_chunk = lines * (2 * chunk * (chunk + entries) + sources.lists_per_chunk * entries * width)
    size = max(1, _GROUP_ELEMENTS // max(per_chunk, 1))
    starts = range(0, length // chunk, size)
    for first in reversed(starts) if reverse else starts:
        yield _Group(sources, first, min(size, length // chunk - first), lines, source_rows)


def forward(q: Tensor, k: Tensor, v: Tensor, d: Tensor, y_prefix: Tensor, sources: Sources) -> Tensor:
    """Outputs of all sources `[N, E, V]`, those of the initial state `[N, P, V]` among them.

    q (scaled) `[N, T, K]`, keys of all sources `[N, E, K]`, v `[N, T, V]`, d `[N, T, 1]`; N = B·H lines. All tensors in
    the accumulation dtype; T a multiple of the chunk.
    """
    lines, length, width = v.shape
    # Zeros, not empty: the unused entries of a list point at row 0, which may not be computed yet.
    y = torch.cat([y_prefix, torch.zeros_like(v)], 1)
    table = y.flatten(0, 1)
    for group in _groups(sources, length, lines, width + q.shape[2], k.shape[1]):
        c = group.coefficients(
            group.take(q, group.rows), group.take(k, group.sources), group.take(d, group.rows), group.listed(k)
        )
        own = c.alpha * group.take(v, group.rows)
        for i in range(group.chunks):
            listed = table.index_select(0, group.flat[i]).view(lines * group.list_count, group.entries, width)
            weights = c.outside[i].reshape(len(listed), group.sharing, group.entries)
            inputs = torch.baddbmm(own[i].view(len(listed), group.sharing, width), weights, listed)
            rows = slice(group.sources.start + i * group.chunk, group.sources.start + (i + 1) * group.chunk)
            y[:, rows] = c.inverse[i] @ inputs.view(lines, group.chunk, width)
    return y


def backward(
    q: Tensor, k: Tensor, v: Tensor, d: Tensor, y: Tensor, grad: Tensor, sources: Sources
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, d and the initial outputs, from the y that `forward` gave and its gradient `[N, T, V]`."""
    lines, length, width = v.shape
    # `zeros_like` would copy k's strides, and then the flattened table below be a copy that nobody reads.
    dk = k.new_zeros(k.shape)
    dq, dv, dd = torch.empty_like(q), torch.empty_like(v), torch.empty_like(d)
    received = torch.cat([grad.new_zeros(lines, sources.prefix, width), grad], 1)
    received_table, dk_table = received.flatten(0, 1), dk.flatten(0, 1)
    for group in _groups(sources, length, lines, width + q.shape[2], k.shape[1], reverse=True):
        q_c, k_c, v_c = group.take(q, group.rows), group.take(k, group.sources), group.take(v, group.rows)
        listed_k = group.listed(k)
        c = group.coefficients(q_c, k_c, group.take(d, group.rows), listed_k)
        z = torch.empty_like(v_c)
        for i in reversed(range(group.chunks)):
            rows = slice(group.sources.start + i * group.chunk, group.sources.start + (i + 1) * group.chunk)
            torch.matmul(c.inverse[i].transpose(1, 2), received[:, rows], out=z[i])
            sent = group.onto_list(c.outside[i : i + 1], z[i : i + 1])
            received_table.index_add_(0, group.flat[i], sent[0])

        # ds_ij = β_ij (z_i·y_j − z_i·y_i), and the same with v_i for the input's logit.
        y_c = group.take(y, group.sources)
        row_term = (z * y_c).sum(3, keepdim=True)
        ds_inside = c.inside * (z @ y_c.transpose(2, 3) - row_term)
        ds_outside = c.outside * (group.times_list(z, group.listed(y)) - row_term)
        group.put(dv, c.alpha * z)
        group.put(dd, c.alpha * ((z * v_c).sum(3, keepdim=True) - row_term))
        group.put(dq, ds_inside @ k_c + group.over_list(ds_outside, listed_k))
        own_dk = (ds_inside.transpose(2, 3) @ q_c).transpose(0, 1)
        dk[:, group.sources].view(own_dk.shape).add_(own_dk)
        dk_table.index_add_(0, group.flat.flatten(), group.onto_list(ds_outside, q_c).flatten(0, 1))
    return dq, dk, dv, dd, received[:, : sources.prefix]
