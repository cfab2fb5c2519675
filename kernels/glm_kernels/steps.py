"""The public operators of decoding: one token that continues a state."""

from __future__ import annotations

import torch
from torch import Tensor

from glm_kernels import checks
from glm_kernels.attention.decoding import rows_read
from glm_kernels.checks import Backend
from glm_kernels.dispatch import steps_in_triton
from glm_kernels.patterns import Pattern, parse_pattern
from glm_kernels.precision import autocast, without_autocast
from glm_kernels.rotation import Angles, rotated
from glm_kernels.state import RecurrenceState, grown
from glm_kernels.torch_backend import recurrence as torch_recurrence
from glm_kernels.torch_backend import ssm as torch_ssm


@torch.no_grad()
def recurrence_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    d: Tensor,
    pattern: Pattern | str,
    state: RecurrenceState,
    *,
    angles: Angles | None = None,
    scale: float | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, RecurrenceState]:
    """One token of decoding: `recurrence` of a single row that continues `state`, in O(|S|) time and memory.

    q, k `[N, 1, H, K]`; v `[N, 1, H, V]`; d `[N, 1, H]`. angles: cosines and sines `[N or 1, 1, 1, K / 2]`, fp32, by
    which q and k are turned first, as `glm_kernels.rotation` says. The state is updated in place where its tensors are
    wide enough, so go on with the returned one only. Not differentiable. Returns y `[N, 1, H, V]` and the state.

    A float32 state with room on a GPU is always updated in place, its position too, and nothing waits for the device:
    after a first call the step can be captured in a CUDA graph. A document that has come to the state's room then
    gives NaN, and leaves its slots alone; elsewhere it is a ValueError.
    """
    q, k, v, d = autocast(q, k, v, d)
    checks.check_operands(q, k, v, d, "d")
    if q.shape[1] != 1:
        raise ValueError(f"recurrence_step takes one token (T = 1), got T = {q.shape[1]}; use recurrence for more")
    checks.check_state(state, q.shape[0], q, v)
    checks.check_angles(angles, q)
    checks.check_scale(scale)
    checks.check_backend(backend)
    pattern = parse_pattern(pattern) if isinstance(pattern, str) else pattern
    return _step(q, k, v, d, pattern, state, angles, scale, backend)


@torch.no_grad()
def attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: RecurrenceState,
    *,
    window: int | None = None,
    angles: Angles | None = None,
    scale: float | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, RecurrenceState]:
    """One token of decoding: `attention` of a single row over itself and the rows in `state`, to which it is added.

    q `[N, 1, H, K]`; k `[N, 1, G, K]` and v `[N, 1, G, V]`, where G divides H: consecutive heads have a key and a value
    together. The state is one of `rows_read(window)` whose y are the rows' values, of G heads, in any floating dtype.
    The rest is as in `recurrence_step`. Returns y `[N, 1, H, V]` and the state.
    """
    if q.shape[1] != 1:
        raise ValueError(f"attention_step takes one token (T = 1), got T = {q.shape[1]}; use attention for more")
    checks.check_values(state, q, k, v)
    checks.check_angles(angles, q)
    checks.check_scale(scale)
    checks.check_backend(backend)
    return _step(q, k, v, None, rows_read(window), state, angles, scale, backend)


def _step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    d: Tensor | None,
    pattern: Pattern,
    state: RecurrenceState,
    angles: Angles | None,
    scale: float | None,
    backend: Backend,
) -> tuple[Tensor, RecurrenceState]:
    """Of checked operands."""
    scale = q.shape[3] ** -0.5 if scale is None else scale
    checks.check_room(state, pattern)
    if not steps_in_triton(q, v, state.y, backend, rounded_state=d is None):
        checks.check_positions(state, pattern)
        if angles is not None:
            q, k = rotated(q, angles), rotated(k, angles)
        with without_autocast(q.device):
            return torch_recurrence.step(q, k, v, d, pattern, scale, state)
    from glm_kernels.triton_backend.decode import launch

    if state.room is not None:
        return launch.step(q, k, v, d, pattern, scale, state, angles)
    checks.check_positions(state, pattern)
    reach = int(state.position.max()) + 1
    roomy = grown(state, pattern.slot_count(reach))._replace(room=reach)
    y, after = launch.step(q, k, v, d, pattern, scale, roomy, angles)
    return y, after._replace(room=None)


@torch.no_grad()
def ssm_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    state: Tensor,
    *,
    scale: float | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """One token of decoding: `ssm` of a single row (T = 1) that continues `state`, in place. Not differentiable."""
    q, k, v, log_decay = autocast(q, k, v, log_decay)
    checks.check_operands(q, k, v, log_decay, "log_decay")
    if q.shape[1] != 1:
        raise ValueError(f"ssm_step takes one token (T = 1), got T = {q.shape[1]}; use ssm for more")
    checks.check_ssm_state(state, q.shape[0], q, v)
    checks.check_scale(scale)
    checks.check_backend(backend)
    scale = q.shape[3] ** -0.5 if scale is None else scale
    if steps_in_triton(q, v, state, backend):
        from glm_kernels.triton_backend.decode import launch

        return launch.ssm_step(q, k, v, log_decay, scale, state)
    with without_autocast(q.device):
        return torch_ssm.step(q, k, v, log_decay, scale, state)
