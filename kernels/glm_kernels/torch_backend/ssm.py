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
from glm_kernels.kernel_interface import SSMCall
from glm_kernels.precision import accumulation_dtype

CHUNK = 64


def forward(call: SSMCall) -> tuple[Tensor, Tensor | None]:
    """As `SSMKernel` says."""
    y, final = _solve(*_lines(call), call.documents, call.output_final_state)
    return _rows(y, call.v), final


def backward(call: SSMCall, grad: Tensor | None, final_grad: Tensor | None) -> list[Tensor]:
    """As `SSMKernel` says.

    The adjoint of a linear recurrence is one with other operands. With E_ij the decay between rows j ≤ i, G = ∂L/∂y and
    q scaled, ∂q_i = Σ_j E_ij (G_i·v_j) k_j is the recurrence with queries G, keys v and values k, while
    ∂k_j = Σ_i E_ij (v_j·G_i) q_i and ∂v_j = Σ_i E_ij (k_j·q_i) G_i are recurrences from the last row on, which
    continue the final state's gradient and leave the initial one's. The logarithm of the decays up to row i gets
    q_i·∂q_i − k_i·∂k_i, since E_ij is the quotient of two such products of decays.
    """
    documents = call.documents
    q, k, v, a, state = _lines(call)
    g = torch.zeros_like(v) if grad is None else grad.to(v.dtype).transpose(1, 2)
    dq, _ = _solve(g, v, k, a, _transposed(state), documents, False)

    late = None if final_grad is None else final_grad.to(v.dtype)
    back, back_a = _reversed(documents), _reversed_decays(a, documents)
    back_q, back_k, back_v, back_g = (x.flip(2) for x in (q, k, v, g))
    dk, _ = _solve(back_v, back_g, back_q, back_a, _transposed(late), back, False)
    dv, dstate = _solve(back_k, back_q, back_g, back_a, late, back, state is not None)
    dk, dv = dk.flip(2), dv.flip(2)

    of_states = None
    if late is not None:
        of_states = (late * _final(k, v, a, documents, state)).sum((2, 3))
    da = _decay_gradients((q * dq).sum(3) - (k * dk).sum(3), of_states, documents)
    found = [_rows(call.scale * dq, call.q), _rows(dk, call.k), _rows(dv, call.v)]
    found.append(da.transpose(1, 2).to(call.log_decay.dtype).contiguous())
    if dstate is not None and call.state is not None:
        found.append(_through_first_decays(dstate, a, documents).to(call.state.dtype))
    return found


def summary(k: Tensor, v: Tensor, log_decay: Tensor, document_starts: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What a shard of rows does to the state h that enters it: h ↦ decay · h + added.

    k `[B, T, H, K]`, v `[B, T, H, V]`, log_decay `[B, T, H]`, document_starts `[B, T]` counted from the shard's first
    row; only the document that starts at row 0 sees h. Returns decay `[B, H]` and added `[B, H, K, V]`, accumulated
    in float32 or float64.
    """
    sums = _decayed(log_decay.transpose(1, 2))
    weight = (sums[:, :, -1:] - sums).exp()
    if document_starts is not None:
        rows = torch.arange(k.shape[1], device=k.device)
        weight = weight * (rows >= document_starts[:, -1:]).unsqueeze(1)
    return _shard_decay(sums, document_starts, k.dtype), _outer(k, v, weight)


def adjoint_summary(
    q: Tensor, grad: Tensor, log_decay: Tensor, scale: float, document_starts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same for the way back: g ↦ decay · g + added, of the gradient g of the state that leaves the shard.

    grad `[B, T, H, V]`: the gradient of y. The result is the gradient of the state that enters the shard.
    """
    sums = _decayed(log_decay.transpose(1, 2))
    weight = scale * sums.exp()
    if document_starts is not None:
        weight = weight * (document_starts <= 0).unsqueeze(1)
    return _shard_decay(sums, document_starts, q.dtype), _outer(q, grad, weight)


def _shard_decay(sums: Tensor, starts: Tensor | None, operands: torch.dtype) -> Tensor:
    decay = sums[:, :, -1].exp().to(accumulation_dtype(operands))
    return decay if starts is None else decay * (starts[:, -1:] <= 0)


def _outer(k: Tensor, v: Tensor, weight: Tensor) -> Tensor:
    """Σ_t weight_t k_t v_tᵀ `[B, H, K, V]` of k `[B, T, H, K]`, v `[B, T, H, V]`, weight `[B, H, T]`."""
    dtype = accumulation_dtype(k.dtype)
    weighted = k.to(dtype).permute(0, 2, 3, 1) * weight.to(dtype).unsqueeze(2)
    return weighted @ v.to(dtype).transpose(1, 2)


def _lines(call: SSMCall) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """q (scaled), k, v `[B, H, T, ·]`, log_decay `[B, H, T]` and the state, in the accumulation dtype."""
    dtype = accumulation_dtype(call.q.dtype)
    q, k, v, a = (x.to(dtype).transpose(1, 2) for x in (call.q, call.k, call.v, call.log_decay))
    return call.scale * q, k, v, a, None if call.state is None else call.state.to(dtype)


def _rows(x: Tensor, like: Tensor) -> Tensor:
    """`[B, H, T, D]` → `[B, T, H, D]`, contiguous, in the dtype of `like`."""
    return x.transpose(1, 2).to(like.dtype).contiguous()


def _transposed(state: Tensor | None) -> Tensor | None:
    return None if state is None else state.transpose(2, 3)


def _solve(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, state: Tensor | None, documents: Documents, output_final_state: bool
) -> tuple[Tensor, Tensor | None]:
    """y `[B, H, T, V]` and, if asked for, the final state."""
    y = _from_zero(q, k, v, a, documents.starts)
    if state is not None:
        y = y + _from_initial(q, a, documents, state)
    return y, _final(k, v, a, documents, state) if output_final_state else None


def _reversed(documents: Documents) -> Documents:
    """The documents as they stand when the rows are numbered from the last one on: final states enter them."""
    batch, length = documents.starts.shape
    ends, entry = documents.ends, length - documents.exit
    if len(entry) == batch:
        number = torch.arange(batch, device=ends.device).unsqueeze(1)
        carried = torch.where(documents.starts == documents.starts[:, -1:], number, -1)
        exit_start = length - 1 - ends[:, 0]
    else:
        carried, exit_start = documents.carried, entry
    return Documents(length - 1 - ends.flip(1), carried.flip(1), entry, length - documents.entry, exit_start)


def _reversed_decays(a: Tensor, documents: Documents) -> Tensor:
    """From the last row on, the decay of row i stands before row i − 1, and none before a document's last row."""
    closes = documents.ends == torch.arange(a.shape[2], device=a.device)
    return pad(a[:, :, 1:], (0, 1)).masked_fill(closes.unsqueeze(1), 0).flip(2)


def _decay_gradients(of_rows: Tensor, of_states: Tensor | None, documents: Documents) -> Tensor:
    """`[B, H, T]`: a decay takes part in all rows from its own to the end of its document, and in its final state.

    of_rows `[B, H, T]`, of_states `[N, H]`: gradients of the logarithms of the decays up to each row and final state.
    """
    of_rows = of_rows.double()
    rest = pad(of_rows.flip(2).cumsum(2).flip(2), (0, 1))
    da = rest[:, :, :-1] - rest.gather(2, (documents.ends + 1).unsqueeze(1).expand_as(of_rows))
    if of_states is not None:
        for n, (start, end) in enumerate(zip(documents.exit_start.tolist(), documents.exit.tolist(), strict=True)):
            da[n * len(da) // len(of_states), :, start:end] += of_states[n].unsqueeze(1)
    return da


def _through_first_decays(dstate: Tensor, a: Tensor, documents: Documents) -> Tensor:
    """An initial state meets the decay of its document's first row, unless the document has no rows."""
    number = torch.arange(len(dstate), device=a.device) * len(a) // len(dstate)
    first = a[number, :, documents.entry.clamp(max=a.shape[2] - 1)]
    empty = documents.exit == documents.entry
    return dstate * first.masked_fill(empty.unsqueeze(1), 0).exp()[:, :, None, None]


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


def _from_initial(q: Tensor, a: Tensor, documents: Documents, state: Tensor) -> Tensor:
    """`[B, H, T, V]`: what the initial states add, each to the rows of the document that it enters."""
    decayed = _decayed(a)
    since_start = decayed - (decayed - a).gather(2, documents.starts.unsqueeze(1).expand_as(decayed))
    carried = documents.carried.unsqueeze(1)
    weight = since_start.masked_fill(carried < 0, -torch.inf).exp().to(q.dtype)
    q = q * weight.unsqueeze(3)
    if len(state) == len(q):
        return q @ state
    # Documents packed in one batch row: each has a state of its own.
    y = q.new_empty(*q.shape[:3], state.shape[3])
    for n, (start, end) in enumerate(zip(documents.entry.tolist(), documents.exit.tolist(), strict=True)):
        y[0, :, start:end] = q[0, :, start:end] @ state[n]
    return y


def _final(k: Tensor, v: Tensor, a: Tensor, documents: Documents, initial: Tensor | None) -> Tensor:
    """`[N, H, K, V]`: the state after the last row of every carried document."""
    decayed = _decayed(a)
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


def _decayed(a: Tensor) -> Tensor:
    """Sums of log decays in float64: differences of long sums would lose the decays of a late document."""
    return a.double().cumsum(2)


def step(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, scale: float, state: Tensor) -> tuple[Tensor, Tensor]:
    """One row that continues the state, which it updates in place, of checked arguments."""
    dtype = state.dtype
    decay = log_decay[:, 0].to(dtype).exp()[:, :, None, None]
    state.mul_(decay).addcmul_(k[:, 0].to(dtype).unsqueeze(3), v[:, 0].to(dtype).unsqueeze(2))
    y = scale * torch.einsum("nhk,nhkv->nhv", q[:, 0].to(dtype), state)
    return y.unsqueeze(1).to(v.dtype), state
