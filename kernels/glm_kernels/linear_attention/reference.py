"""The definitions as they stand: the judges of every other implementation. Any floating dtype, differentiable."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


def gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor | None,
    scale: float,
    document_starts: Tensor | None = None,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """h_t = (I − β_t k_t k_tᵀ) diag(exp g_t) h_{t−1} + β_t k_t v_tᵀ and y_t = scale · q_tᵀ h_t; without beta
    h_t = diag(exp g_t) h_{t−1} + k_t v_tᵀ.

    Arguments as in `operators`. Returns y and the state after the last row.
    """
    batch, length, heads, key_dim = q.shape
    zero = q.new_zeros(heads, key_dim, v.shape[3])
    rows, finals = [], []
    for b in range(batch):
        h = zero if initial_state is None else initial_state[b].to(q.dtype)
        for t in range(length):
            if t > 0 and document_starts is not None and int(document_starts[b, t]) == t:
                h = zero
            decay = log_decay[b, t].exp()
            h = (decay[:, None, None] if decay.ndim == 1 else decay[:, :, None]) * h
            value = v[b, t]
            if beta is not None:
                value = beta[b, t][:, None] * (value - torch.einsum("hk,hkv->hv", k[b, t], h))
            h = h + k[b, t].unsqueeze(2) * value.unsqueeze(1)
            rows.append(scale * torch.einsum("hk,hkv->hv", q[b, t], h))
        finals.append(h)
    return torch.stack(rows).view(batch, length, heads, -1), torch.stack(finals)


def log_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    level: Tensor,
    scale: float,
    document_starts: Tensor | None = None,
) -> Tensor:
    """y_i = scale Σ_{j≤i} λ_{i,ℓ(i,j)} exp(g_{j+1} + … + g_i) (q_i·k_j) v_j, where ℓ(i, j) is the number of binary
    digits of i xor j, positions in their document. Without states."""
    y = torch.zeros_like(v)
    for b in range(len(q)):
        starts = [0] if document_starts is None else document_starts[b].unique().tolist()
        for start, end in pairwise([*starts, q.shape[1]]):
            here, rows = slice(start, end), range(end - start)
            of = torch.tensor([[(i ^ j).bit_length() if j <= i else 0 for j in rows] for i in rows], device=q.device)
            heard = level[b, here].gather(2, of.unsqueeze(1).expand(-1, q.shape[2], -1)).transpose(1, 2)  # [i, j, H]
            sums = log_decay[b, here].double().cumsum(0)
            later = torch.ones(len(rows), len(rows), dtype=torch.bool, device=q.device).triu(1).unsqueeze(2)
            decay = (sums[:, None] - sums).masked_fill(later, -torch.inf).to(q.dtype).exp().permute(2, 0, 1)
            weights = heard.permute(2, 0, 1) * decay * torch.einsum("ihk,jhk->hij", q[b, here], k[b, here])
            y[b, here] = scale * torch.einsum("hij,jhv->ihv", weights, v[b, here])
    return y
