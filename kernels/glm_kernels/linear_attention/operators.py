"""The public operators: they check their arguments and choose the implementation."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from glm_kernels import checks
from glm_kernels.linear_attention import library, peer, reference, steps
from glm_kernels.linear_attention.state import LevelState
from glm_kernels.precision import autocast, without_autocast

Backend = Literal["auto", "fla", "torch", "reference"]


def gated_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    *,
    scale: float | None = None,
    document_starts: Tensor | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor | None]:
    """A state that fades channel by channel: h_t = diag(exp g_t) h_{t−1} + k_t v_tᵀ and y_t = scale · q_tᵀ h_t.

    Source: gated linear attention, arXiv 2312.06635.

    q, k, log_decay (g) `[B, T, H, K]`; v `[B, T, H, V]`; one floating dtype, or log_decay in float32. Under autocast
    q, k and v are cast to its dtype; sums are kept in at least float32 all the same. scale: K^-0.5 unless given.
    document_starts: int `[B, T]`, the row at which each token's document starts; rows never read across documents.
    initial_state: `[B, H, K, V]` in float32 (float64 for float64 work), which the first document of each batch row
    continues; output_final_state: also return that of the last one.
    backend: "torch" is ours; "fla" flash-linear-attention's; "auto" takes fla's on GPUs where it serves the call and
    is not known to be wrong, else ours, and logs which; "reference" is the definition, row by row.

    Returns y `[B, T, H, V]` in v's dtype, and the state or None. Differentiable, once ("reference": any number of
    times). A compiler sees one node each way, but for fla's, which break its graph.
    Raises ValueError naming the argument, what was found and what is allowed.
    """
    q, k, v, log_decay = autocast(q, k, v, log_decay)
    _check(q, k, v, scale, document_starts, initial_state, backend)
    _check_gate("log_decay", log_decay, q, tuple(q.shape))
    return _gated("gla", (q, k, v, log_decay), None, scale, document_starts, initial_state, output_final_state, backend)


def gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    *,
    scale: float | None = None,
    document_starts: Tensor | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor | None]:
    """A state that fades, and from which writing a value first takes what it holds for the key:

    h_t = (I − β_t k_t k_tᵀ) diag(exp g_t) h_{t−1} + β_t k_t v_tᵀ and y_t = scale · q_tᵀ h_t.

    log_decay (g): `[B, T, H]`, Gated DeltaNet's (arXiv 2412.06464), or `[B, T, H, K]`, Kimi Delta Attention's (arXiv
    2510.26692). beta `[B, T, H]`, in the dtype of q or float32; states stay bounded for keys of length 1 and β in
    [0, 2]. Keys are taken as they are. The rest is as in `gated_linear_attention`.
    """
    q, k, v, log_decay = autocast(q, k, v, log_decay)
    _check(q, k, v, scale, document_starts, initial_state, backend)
    _check_gate("log_decay", log_decay, q, tuple(q.shape[: log_decay.ndim]))
    _check_gate("beta", beta, q, tuple(q.shape[:3]))
    name = "kda" if log_decay.ndim == 4 else "gated_delta_rule"
    return _gated(name, (q, k, v, log_decay), beta, scale, document_starts, initial_state, output_final_state, backend)


def log_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    level: Tensor,
    *,
    scale: float | None = None,
    document_starts: Tensor | None = None,
    initial_state: LevelState | None = None,
    output_final_state: bool = False,
    backend: Backend = "auto",
) -> tuple[Tensor, LevelState | None]:
    """The recurrence of `ssm` with a state for each power of two of the tokens before, which every token weighs.

    y_i = scale Σ_{j≤i} λ_{i,ℓ(i,j)} exp(g_{j+1} + … + g_i) (q_i·k_j) v_j, where ℓ(i, j) is the number of binary digits
    of i xor j, positions in their document (arXiv 2506.04761). log_decay (g) `[B, T, H]`; level (λ) `[B, T, H, L]` in
    the dtype of q or float32, for documents of up to 2^(L−1) tokens. Ours takes O(T²) time and O(T) memory.
    States are `LevelState`; "reference" takes and gives none. The rest is as in `gated_linear_attention`.
    """
    q, k, v, log_decay = autocast(q, k, v, log_decay)
    _check(q, k, v, scale, document_starts, None, backend)
    _check_gate("log_decay", log_decay, q, tuple(q.shape[:3]))
    _check_levels(level, q)
    _check_level_state(initial_state, q, v, level)
    scale = q.shape[3] ** -0.5 if scale is None else scale
    stateful = initial_state is not None or output_final_state
    if backend == "reference":
        if stateful:
            raise ValueError("backend = 'reference' of log_linear_attention has no states; allowed are auto, torch")
        return reference.log_linear_attention(q, k, v, log_decay, level, scale, document_starts), None
    if peer.serves("log_linear", q, v, backend, packed_state=stateful):
        return peer.run("log_linear", (q, k, v, log_decay, level.to(q.dtype)), scale, document_starts)[0], None
    of_state = (None, None) if initial_state is None else initial_state
    y, final = library.log_linear_attention(
        q, k, v, log_decay, level, scale, document_starts, *of_state, output_final_state
    )
    if not output_final_state:
        return y, None
    return y, LevelState(final, _final_position(q, document_starts, initial_state))


@torch.no_grad()
def gated_linear_attention_step(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor, *, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """One token of decoding: `gated_linear_attention` of a single row (T = 1) that continues `state`. Not
    differentiable."""
    q, k, v, log_decay = autocast(q, k, v, log_decay)
    _check_row(q, k, v, scale, state)
    _check_gate("log_decay", log_decay, q, tuple(q.shape))
    return _step(q, k, v, log_decay, None, scale, state)


@torch.no_grad()
def gated_delta_rule_step(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor, *, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """One token of decoding: `gated_delta_rule` of a single row (T = 1) that continues `state`. Not differentiable."""
    q, k, v, log_decay = autocast(q, k, v, log_decay)
    _check_row(q, k, v, scale, state)
    _check_gate("log_decay", log_decay, q, tuple(q.shape[: log_decay.ndim]))
    _check_gate("beta", beta, q, tuple(q.shape[:3]))
    return _step(q, k, v, log_decay, beta, scale, state)


@torch.no_grad()
def log_linear_attention_step(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, level: Tensor, state: LevelState, *, scale: float | None = None
) -> tuple[Tensor, LevelState]:
    """One token of decoding: `log_linear_attention` of a single row (T = 1) that continues `state`. Not
    differentiable."""
    q, k, v, log_decay = autocast(q, k, v, log_decay)
    _check_row(q, k, v, scale, None)
    _check_gate("log_decay", log_decay, q, tuple(q.shape[:3]))
    _check_levels(level, q)
    _check_level_state(state, q, v, level)
    with without_autocast(q.device):
        return steps.by_level(q, k, v, log_decay, level, q.shape[3] ** -0.5 if scale is None else scale, state)


def _gated(
    name: str,
    operands: tuple[Tensor, Tensor, Tensor, Tensor],
    beta: Tensor | None,
    scale: float | None,
    document_starts: Tensor | None,
    initial_state: Tensor | None,
    output_final_state: bool,
    backend: Backend,
) -> tuple[Tensor, Tensor | None]:
    """Of checked operands q, k, v and log_decay."""
    q, _, v, _ = operands
    scale = q.shape[3] ** -0.5 if scale is None else scale
    final: Tensor | None
    if backend == "reference":
        y, final = reference.gated_delta_rule(*operands, beta, scale, document_starts, initial_state)
        return y, final if output_final_state else None
    stateful = initial_state is not None or output_final_state
    if peer.serves(name, q, v, backend, packed_state=stateful and document_starts is not None):
        of_beta = () if beta is None else (beta,)
        return peer.run(name, (*operands, *of_beta), scale, document_starts, initial_state, output_final_state)
    y, final = library.linear_attention(*operands, beta, scale, document_starts, initial_state, output_final_state)
    return y, final if output_final_state else None


def _step(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor | None, scale: float | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    with without_autocast(q.device):
        return steps.gated(q, k, v, log_decay, beta, q.shape[3] ** -0.5 if scale is None else scale, state)


def _check_row(q: Tensor, k: Tensor, v: Tensor, scale: float | None, state: Tensor | None) -> None:
    if q.ndim == 4 and q.shape[1] != 1:
        raise ValueError(f"a step takes one token (T = 1), got T = {q.shape[1]}; use the operator for more")
    _check(q, k, v, scale, None, state, "torch")


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None,
    document_starts: Tensor | None,
    state: Tensor | None,
    backend: str,
) -> None:
    """What all the operators have in common."""
    checks.check_operands(q, k, v, q[..., 0], "q")
    checks.check_packing(q, None, document_starts)
    checks.check_ssm_state(state, q.shape[0], q, v)
    checks.check_scale(scale)
    if backend not in get_args(Backend):
        raise ValueError(f"backend = {backend!r}; allowed are {', '.join(get_args(Backend))}")


def _check_gate(name: str, gate: Tensor, q: Tensor, shape: tuple[int, ...]) -> None:
    """Of that shape, on the device of q, in its dtype or float32."""
    if gate.shape != shape:
        raise ValueError(f"{name} must have shape {list(shape)} to go with q {list(q.shape)}, got {list(gate.shape)}")
    if gate.dtype not in (q.dtype, torch.float32) or gate.device != q.device:
        raise ValueError(
            f"{name} is {gate.dtype} on {gate.device}, but q is {q.dtype} on {q.device}; "
            "it must be on that device, in that dtype or float32"
        )


def _check_levels(level: Tensor, q: Tensor) -> None:
    if level.ndim != 4 or level.shape[3] == 0:
        raise ValueError(
            f"level must have shape [B, T, H, L ≥ 1] to go with q {list(q.shape)}, got {list(level.shape)}"
        )
    _check_gate("level", level, q, (*q.shape[:3], level.shape[3]))
    most = 1 << (level.shape[3] - 1)
    if q.shape[1] > most:
        raise ValueError(f"T = {q.shape[1]}, but level has L = {level.shape[3]}, enough for T ≤ 2^(L−1) = {most}")


def _check_level_state(state: LevelState | None, q: Tensor, v: Tensor, level: Tensor) -> None:
    if state is None:
        return
    expected = (q.shape[0], q.shape[2], level.shape[3], q.shape[3], v.shape[3])
    if state.levels.shape != expected or state.position.shape != expected[:1]:
        raise ValueError(
            f"the state's levels must have shape [N, H, L, K, V] = {list(expected)} and its position [N], got "
            f"{list(state.levels.shape)} and {list(state.position.shape)}"
        )
    if state.levels.device != q.device or state.levels.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the state's levels must be float32 on {q.device} like q, or float64 in float64 work")


def _final_position(q: Tensor, document_starts: Tensor | None, state: LevelState | None) -> Tensor:
    length = q.shape[1]
    before = torch.zeros(len(q), dtype=torch.int64, device=q.device) if state is None else state.position
    if document_starts is None:
        return before + length
    last = document_starts[:, -1].to(q.device)
    return length - last + before.where(last == 0, 0)
