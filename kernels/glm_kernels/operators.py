"""The public operators: they check their arguments and hand them to a backend."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import Tensor

from glm_kernels import reference
from glm_kernels.documents import documents_of
from glm_kernels.patterns import Lifetime, Pattern, parse_pattern
from glm_kernels.state import RecurrenceState, state_after
from glm_kernels.torch_backend import recurrence as torch_recurrence
from glm_kernels.torch_backend import ssm as torch_ssm

Backend = Literal["auto", "triton", "torch", "reference"]


def recurrence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    d: Tensor,
    pattern: Pattern | str,
    *,
    scale: float | None = None,
    cu_seqlens: Tensor | None = None,
    document_starts: Tensor | None = None,
    initial_state: RecurrenceState | None = None,
    output_final_state: bool = False,
    backend: Backend = "auto",
) -> tuple[Tensor, RecurrenceState | None]:
    """A structured linear recurrence whose rows are softmax averages of an input and of past outputs.

    y_i = α_i v_i + Σ_j β_ij y_j with (α_i, β_i·) = softmax([d_i, scale · q_i·k_j for the rows j that row i reads]), so
    every output is a convex combination of inputs of its document. Source: arXiv 2605.31367 for the structures,
    the joint normalisation is this project's.

    q, k `[B, T, H, K]`; v `[B, T, H, V]`; d `[B, T, H]`, the logit of the row's own input; one floating dtype, or
    d in float32.
    pattern: a Pattern or its spelling. scale: of q·k, K^-0.5 unless given.
    cu_seqlens: int `[documents + 1]`, documents packed one behind the other in one batch row (B = 1); or
    document_starts: int `[B, T]`, the row at which each token's document starts. Rows never read across documents.
    initial_state: continues each of the `cu_seqlens` documents, or else the first document of each batch row.
    output_final_state: also return the state after the last row (of every document with `cu_seqlens`).

    Returns y `[B, T, H, V]` in v's dtype, and the state or None. Differentiable in q, k, v, d and the state's k and y.
    Raises ValueError naming the argument, what was found and what is allowed.
    """
    pattern = parse_pattern(pattern) if isinstance(pattern, str) else pattern
    _check_rows(q, k, v, d, "d")
    documents = documents_of(q.shape[0], q.shape[1], cu_seqlens, document_starts, q.device)
    _check_state(initial_state, pattern, len(documents.entry), q, v)
    scale = q.shape[3] ** -0.5 if scale is None else scale
    served_by = _recurrence_backend(backend, pattern, q, v, initial_state)
    if served_by == "reference":
        return reference.recurrence(
            q, k, v, d, pattern, scale=scale, cu_seqlens=cu_seqlens, document_starts=document_starts,
            initial_state=initial_state, output_final_state=output_final_state,
        )  # fmt: skip
    if served_by == "torch":
        return torch_recurrence.recurrence(q, k, v, d, pattern, scale, documents, initial_state, output_final_state)
    from glm_kernels.triton_backend import lifetime

    assert isinstance(pattern, Lifetime)
    y = lifetime.recurrence(q, k, v, d, pattern, scale, cu_seqlens, document_starts, initial_state)
    return y, state_after(pattern, documents, k, y, initial_state) if output_final_state else None


@torch.no_grad()
def recurrence_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    d: Tensor,
    pattern: Pattern | str,
    state: RecurrenceState,
    *,
    scale: float | None = None,
) -> tuple[Tensor, RecurrenceState]:
    """One token of decoding: `recurrence` of a single row that continues `state`, in O(|S|) time and memory.

    q, k `[N, 1, H, K]`; v `[N, 1, H, V]`; d `[N, 1, H]`. The state is updated in place where its tensors are wide
    enough, so go on with the returned one only. Not differentiable. Returns y `[N, 1, H, V]` and the state.
    """
    pattern = parse_pattern(pattern) if isinstance(pattern, str) else pattern
    _check_rows(q, k, v, d, "d")
    if q.shape[1] != 1:
        raise ValueError(f"recurrence_step takes one token (T = 1), got T = {q.shape[1]}; use recurrence for more")
    _check_state(state, pattern, q.shape[0], q, v)
    scale = q.shape[3] ** -0.5 if scale is None else scale
    return torch_recurrence.step(q, k, v, d, pattern, scale, state)


def ssm(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    *,
    scale: float | None = None,
    cu_seqlens: Tensor | None = None,
    document_starts: Tensor | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor | None]:
    """First-order recurrence with state expansion, one decay per head and token (the diagonal SSM of Mamba-2).

    h_t = exp(log_decay_t) h_{t−1} + k_t v_tᵀ and y_t = scale · q_tᵀ h_t. Source: arXiv 2405.21060.

    q, k `[B, T, H, K]` with K the state expansion; v `[B, T, H, V]`; log_decay `[B, T, H]`, ≤ 0 for a state that
    fades; one floating dtype, or log_decay in float32. The other keywords are those of `recurrence`; states are
    `[N, H, K, V]` float32 (float64 for float64 work).
    Returns y `[B, T, H, V]` in v's dtype, and the state or None. Raises ValueError on bad arguments.
    """
    _check_rows(q, k, v, log_decay, "log_decay")
    documents = documents_of(q.shape[0], q.shape[1], cu_seqlens, document_starts, q.device)
    _check_ssm_state(initial_state, len(documents.entry), q, v)
    scale = q.shape[3] ** -0.5 if scale is None else scale
    _check_backend(backend)
    if backend == "triton":
        raise ValueError("backend = 'triton' does not serve ssm; use backend = 'auto'")
    operator = reference.ssm if backend == "reference" else torch_ssm.ssm
    return operator(q, k, v, log_decay, scale, documents, initial_state, output_final_state)


@torch.no_grad()
def ssm_step(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor, *, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """One token of decoding: `ssm` of a single row (T = 1) that continues `state`. Not differentiable."""
    _check_rows(q, k, v, log_decay, "log_decay")
    if q.shape[1] != 1:
        raise ValueError(f"ssm_step takes one token (T = 1), got T = {q.shape[1]}; use ssm for more")
    _check_ssm_state(state, q.shape[0], q, v)
    return torch_ssm.step(q, k, v, log_decay, q.shape[3] ** -0.5 if scale is None else scale, state)


def _recurrence_backend(
    backend: str, pattern: Pattern, q: Tensor, v: Tensor, initial_state: RecurrenceState | None
) -> Backend:
    """The backend that will run; "auto" takes Triton where its kernels serve the call on a GPU."""
    _check_backend(backend)
    if backend in ("torch", "reference") or (backend == "auto" and not q.is_cuda):
        return "reference" if backend == "reference" else "torch"
    reason = "triton is not installed"
    if find_spec("triton"):
        from glm_kernels.triton_backend import lifetime

        before = 0 if initial_state is None else int(initial_state.position.max())
        reason = lifetime.why_not(pattern, q, v, before + q.shape[1]) or ""
    if reason and backend == "triton":
        raise ValueError(f"backend = 'triton' cannot serve this call: {reason}; use backend = 'auto'")
    return "torch" if reason else "triton"


def _check_backend(backend: str) -> None:
    if backend not in get_args(Backend):
        raise ValueError(f"backend = {backend!r}; allowed are {', '.join(get_args(Backend))}")


def _check_rows(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, gate_name: str) -> None:
    if q.ndim != 4:
        raise ValueError(f"q must have shape [B, T, H, K], got {list(q.shape)}")
    expected = {"k": (k, q.shape), "v": (v, (*q.shape[:3], v.shape[-1])), gate_name: (gate, q.shape[:3])}
    for name, (tensor, shape) in expected.items():
        if tensor.shape != tuple(shape):
            raise ValueError(
                f"{name} must have shape {list(shape)} to go with q {list(q.shape)}, got {list(tensor.shape)}"
            )
    for name, tensor in (("q", q), ("k", k), ("v", v), (gate_name, gate)):
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be a floating tensor, got {tensor.dtype}")
        # A decay close to one says more in float32 than bfloat16 can hold.
        allowed = (q.dtype, torch.float32) if tensor is gate else (q.dtype,)
        if tensor.dtype not in allowed or tensor.device != q.device:
            raise ValueError(
                f"{name} is {tensor.dtype} on {tensor.device}, but q is {q.dtype} on {q.device}; "
                f"all operands must share dtype and device, but {gate_name} may be float32"
            )


def _check_state(state: RecurrenceState | None, pattern: Pattern, carried: int, q: Tensor, v: Tensor) -> None:
    if state is None:
        return
    heads, key_dim, value_dim = q.shape[2], q.shape[3], v.shape[3]
    if state.position.shape != (carried,):
        raise ValueError(f"the state's position must have shape [{carried}], got {list(state.position.shape)}")
    needed = pattern.slot_count(int(state.position.max()))
    for name, tensor, width in (("k", state.k, key_dim), ("y", state.y, value_dim)):
        found = tuple(tensor.shape)
        if len(found) != 4 or found[:2] != (carried, heads) or found[3] != width or found[2] < needed:
            raise ValueError(
                f"the state's {name} must have shape [{carried}, {heads}, S ≥ {needed}, {width}] for {pattern} after "
                f"{int(state.position.max())} tokens, got {list(found)}"
            )
    if state.k.shape[2] != state.y.shape[2]:
        raise ValueError(f"the state's k has {state.k.shape[2]} slots and its y {state.y.shape[2]}; they must agree")


def _check_ssm_state(state: Tensor | None, carried: int, q: Tensor, v: Tensor) -> None:
    expected = [carried, q.shape[2], q.shape[3], v.shape[3]]
    if state is not None and list(state.shape) != expected:
        raise ValueError(f"the state must have shape [N, H, K, V] = {expected}, got {list(state.shape)}")
