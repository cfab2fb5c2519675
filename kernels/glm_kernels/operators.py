"""The public operators: they check their arguments and hand them to the registered operators of `library`."""

from __future__ import annotations

from torch import Tensor

from glm_kernels import checks, library, reference
from glm_kernels.checks import Backend
from glm_kernels.documents import documents_of
from glm_kernels.patterns import Pattern, parse_pattern
from glm_kernels.precision import autocast
from glm_kernels.state import RecurrenceState, state_after, with_room


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
    d in float32. Under autocast q, k and v are cast to its dtype; sums are kept in at least float32 all the same.
    pattern: a Pattern or its spelling. scale: of q·k, K^-0.5 unless given.
    cu_seqlens: int `[documents + 1]`, documents packed one behind the other in one batch row (B = 1); or
    document_starts: int `[B, T]`, the row at which each token's document starts. Rows never read across documents.
    initial_state: continues each of the `cu_seqlens` documents, or else the first document of each batch row. Its k
    are keys of earlier rows: Triton's kernels take them in the dtype of k.
    output_final_state: also return the state after the last row (of every document with `cu_seqlens`).
    backend: "auto" takes the fastest kernels that serve the call, "triton" and "torch" only theirs, "reference" is
    the O(T²) definition.

    Returns y `[B, T, H, V]` in v's dtype, and the state or None. Differentiable, once, in q, k, v, d and the state's
    k and y. A compiler sees one node each for the forward and the backward pass; only the state after the last row,
    whose size depends on values, breaks its graph.
    Raises ValueError naming the argument, what was found and what is allowed.
    """
    q, k, v, d = autocast(q, k, v, d)
    checks.check_operands(q, k, v, d, "d")
    checks.check_packing(q, cu_seqlens, document_starts)
    checks.check_state(initial_state, checks.carried_documents(q, cu_seqlens), q, v)
    checks.check_scale(scale)
    checks.check_backend(backend)
    scale = q.shape[3] ** -0.5 if scale is None else scale
    if backend == "reference":
        pattern = _parsed(pattern)
        if initial_state is not None:
            checks.check_room(initial_state, pattern)
            checks.check_positions(initial_state, pattern)
        y, final = reference.recurrence(
            q, k, v, d, pattern, scale=scale, cu_seqlens=cu_seqlens, document_starts=document_starts,
            initial_state=initial_state, output_final_state=output_final_state,
        )  # fmt: skip
        room = None if initial_state is None else initial_state.room
        return y, final if final is None or room is None else with_room(final, pattern, room)
    state = (None, None, None, None) if initial_state is None else initial_state
    y, *_ = library.recurrence(
        *(x.contiguous() for x in (q, k, v, d)), pattern if isinstance(pattern, str) else pattern.spelling, scale,
        cu_seqlens, document_starts, *state, backend,
    )  # fmt: skip
    if not output_final_state:
        return y, None
    documents = documents_of(q.shape[0], q.shape[1], cu_seqlens, document_starts, q.device)
    return y, state_after(_parsed(pattern), documents, k, y, initial_state)


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
    q, k, v, log_decay = autocast(q, k, v, log_decay)
    checks.check_operands(q, k, v, log_decay, "log_decay")
    checks.check_packing(q, cu_seqlens, document_starts)
    checks.check_ssm_state(initial_state, checks.carried_documents(q, cu_seqlens), q, v)
    checks.check_scale(scale)
    checks.check_backend(backend)
    scale = q.shape[3] ** -0.5 if scale is None else scale
    if backend == "reference":
        documents = documents_of(q.shape[0], q.shape[1], cu_seqlens, document_starts, q.device)
        return reference.ssm(q, k, v, log_decay, scale, documents, initial_state, output_final_state)
    y, final = library.ssm(
        *(x.contiguous() for x in (q, k, v, log_decay)), scale, cu_seqlens, document_starts, initial_state,
        output_final_state, backend,
    )  # fmt: skip
    return y, final if output_final_state else None


def _parsed(pattern: Pattern | str) -> Pattern:
    return parse_pattern(pattern) if isinstance(pattern, str) else pattern
