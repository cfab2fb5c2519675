"""First-order recurrence with state expansion, chunk by chunk.

Within a chunk rows interact through decayed inner products; between chunks only the `[K, V]` state is carried.
Source of the chunkwise form: Mamba-2's state-space duality, arXiv 2405.21060. The recurrence is linear in its initial
state, so states that enter in the middle of a row (packed documents) are added as terms of their own.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from glm_kernels.documents import Documents

CHUNK = 64


def ssm(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    scale: float,
    documents: Documents,
    initial_state: Tensor | None,
    output_final_state: bool,
) -> tuple[Tensor, Tensor | None]:
    """Checked arguments; shapes as in `glm_kernels.ssm`. Accumulates in float32 or float64."""
    out_dtype, dtype = v.dtype, torch.promote_types(q.dtype, torch.float32)
    q, k, v, a = (x.to(dtype).transpose(1, 2) for x in (scale * q, k, v, log_decay))  # [B, H, T, ·]
    y = _from_zero(q, k, v, a, documents.starts)
    # In float64: differences of long cumulative sums would lose the decays of a late document.
    decayed = a.double().cumsum(2)
    if initial_state is not None:
        y = y + _from_initial(q, decayed, a, documents, initial_state.to(dtype))
    final = _final(k, v, decayed, a, documents, initial_state) if output_final_state else None
    return y.transpose(1, 2).to(out_dtype), final


def _from_zero(q: Tensor, k: Tensor, v: Tensor, a: Tensor, starts: Tensor) -> Tensor:
    """`[B, H, T, V]`: the outputs where every document starts from a zero state."""
    batch, _, length, _ = q.shape
    chunk = min(CHUNK, 1 << max(length - 1, 0).bit_length())
    short = -length % chunk
    q, k, v = (pad(x, (0, 0, 0, short)).unflatten(2, (-1, chunk)) for x in (q, k, v))
    decay = pad(a, (0, short)).unflatten(2, (-1, chunk)).cumsum(3)
    rows = torch.arange(length + short, device=starts.device)
    starts = torch.cat([starts, rows[length:].expand(batch, short)], 1)
    begins = rows[::chunk].view(1, -1, 1)
    starts = starts.unflatten(1, (-1, chunk))  # [B, chunks, C]

    rows = rows.view(1, -1, chunk)
    reads = (starts.unsqueeze(3) <= rows.unsqueeze(2)).tril()  # row i reads j of its own document
    between = (decay.unsqueeze(4) - decay.unsqueeze(3)).masked_fill(~reads.unsqueeze(1), -torch.inf)
    y = (q @ k.transpose(3, 4) * between.exp()) @ v

    reaches_end = (starts[:, :, -1:] <= rows).unsqueeze(1)  # rows of the document that the chunk ends with
    leaving = (decay[..., -1:] - decay).masked_fill(~reaches_end, -torch.inf).exp()
    added = (k * leaving.unsqueeze(4)).transpose(3, 4) @ v
    kept = decay[..., -1].masked_fill((starts[:, :, -1] >= begins[:, :, 0]).unsqueeze(1), -torch.inf).exp()
    entered = _scan(added, kept)
    from_before = (starts < begins).unsqueeze(1)
    y = y + (q * decay.masked_fill(~from_before, -torch.inf).exp().unsqueeze(4)) @ entered
    return y.flatten(2, 3)[:, :, :length]


def _scan(added: Tensor, kept: Tensor) -> Tensor:
    """The state each chunk starts from: h_0 = 0, h_{c+1} = kept_c h_c + added_c, along dimension 2."""
    states = [torch.zeros_like(added[:, :, 0])]
    for c in range(added.shape[2] - 1):
        states.append(torch.addcmul(added[:, :, c], states[-1], kept[:, :, c, None, None]))
    return torch.stack(states, 2)


def _from_initial(q: Tensor, decayed: Tensor, a: Tensor, documents: Documents, state: Tensor) -> Tensor:
    """`[B, H, T, V]`: what the initial states add, each to the rows of the document that it enters."""
    since_start = decayed - (decayed - a).gather(2, documents.starts.unsqueeze(1).expand_as(decayed))
    carried = documents.carried.unsqueeze(1)
    weight = since_start.masked_fill(carried < 0, -torch.inf).exp().to(q.dtype)
    if len(state) == len(q):
        return (q * weight.unsqueeze(3)) @ state
    # Documents packed in one batch row: each has a state of its own.
    parts = [
        (q[0, :, start:end] * weight[0, :, start:end].unsqueeze(2)) @ state[n]
        for n, (start, end) in enumerate(zip(documents.entry.tolist(), documents.exit.tolist(), strict=True))
    ]
    return torch.cat(parts, 1).unsqueeze(0)


def _final(k: Tensor, v: Tensor, decayed: Tensor, a: Tensor, documents: Documents, initial: Tensor | None) -> Tensor:
    """`[N, H, K, V]`: the state after the last row of every carried document."""
    finals = []
    bounds = zip(documents.exit_start.tolist(), documents.exit.tolist(), documents.entry.tolist(), strict=True)
    for n, (start, end, entry) in enumerate(bounds):
        b = n * len(k) // len(documents.exit)
        here = slice(start, end)
        until_end = (decayed[b, :, end - 1 : end] - decayed[b, :, here]).exp().to(k.dtype)
        state = (k[b, :, here] * until_end.unsqueeze(2)).transpose(1, 2) @ v[b, :, here]
        if initial is not None and start == entry:
            whole = a[b, :, here].double().sum(1).exp().to(k.dtype)
            state = state + whole[:, None, None] * initial[n].to(k.dtype)
        finals.append(state)
    return torch.stack(finals)


def step(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, scale: float, state: Tensor) -> tuple[Tensor, Tensor]:
    """One row that continues the state, of checked arguments."""
    dtype = state.dtype
    decay = log_decay[:, 0].to(dtype).exp()[:, :, None, None]
    state = decay * state + k[:, 0].to(dtype).unsqueeze(3) * v[:, 0].to(dtype).unsqueeze(2)
    y = scale * torch.einsum("nhk,nhkv->nhv", q[:, 0].to(dtype), state)
    return y.unsqueeze(1).to(v.dtype), state
