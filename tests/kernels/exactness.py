"""Passes through operators and kernels, forward and backward, and how far they are from the reference in float64."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from glm_kernels import Pattern, RecurrenceState, parse_pattern, recurrence, reference
from glm_kernels.checks import Backend
from glm_kernels.kernel_interface import RecurrenceCall, RecurrenceFamily
from tests.kernels.operands import Inputs, Packing, each, live_slots, values_and_gradients
from tests.tolerances import pass_errors, rounding


def same(length: int) -> float:
    """What rounding does in float32: sums over tokens and over 20 products, in chains of tokens, and all of it back."""
    return rounding(torch.float32, 4 * (length + 20))


def exact(x: Tensor) -> Tensor:
    """A leaf in float64."""
    return x.detach().double().requires_grad_()


def exact_state(state: RecurrenceState | None) -> RecurrenceState | None:
    """The same state of leaves in float64."""
    return None if state is None else RecurrenceState(exact(state.k), exact(state.y), state.position)


def recurrence_pass(
    backend: Backend,
    inputs: Inputs,
    pattern: Pattern,
    state: RecurrenceState | None = None,
    **packing: Unpack[Packing],
) -> tuple[list[Tensor], Tensor]:
    """Of one backend: y, the live part of the final state and all gradients (3 outputs); the final positions."""
    y, final = recurrence(*inputs, pattern, backend=backend, initial_state=state, output_final_state=True, **packing)
    assert final is not None
    live = live_slots(pattern, final).to(y.device)
    outputs = [y, final.k.where(live, 0), final.y.where(live, 0)]
    return values_and_gradients(outputs, [*inputs, *(() if state is None else state[:2])]), final.position


def backend_errors(
    backend: Backend,
    inputs: Inputs,
    spelling: str,
    state: RecurrenceState | None = None,
    **packing: Unpack[Packing],
) -> list[float]:
    """Of y, the final state and all gradients of a backend behind the public operator."""
    pattern = parse_pattern(spelling)
    expected, _ = recurrence_pass("reference", each(exact, inputs), pattern, exact_state(state), **packing)
    found, _ = recurrence_pass(backend, inputs, pattern, state, **packing)
    return pass_errors(found, expected, outputs=3)


def kernel_errors(
    kernel: RecurrenceFamily,
    inputs: Inputs,
    spelling: str,
    state: RecurrenceState | None = None,
    *,
    cu_seqlens: Tensor | None = None,
    document_starts: Tensor | None = None,
    scale: float | None = None,
) -> list[float]:
    """Of y, of the gradients of q, k, v and d, and of those of the state's k and y, by a kernel."""
    pattern, scale = parse_pattern(spelling), inputs[0].shape[3] ** -0.5 if scale is None else scale
    inputs = each(Tensor.detach, inputs)
    call = RecurrenceCall(*inputs, pattern, scale, cu_seqlens, document_starts, state)
    assert kernel.why_not(call) is None
    y, *kept = kernel.forward(call)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.device, y.dtype)
    found = [y, *kernel.backward(call, y, grad, *kept)]

    precise, past = each(exact, inputs), exact_state(state)
    y, _ = reference.recurrence(
        *precise, pattern, scale=scale, cu_seqlens=cu_seqlens, document_starts=document_starts, initial_state=past
    )
    leaves = [*precise, *(() if past is None else past[:2])]
    expected = [y.detach(), *torch.autograd.grad(y, leaves, grad.double())]
    assert all(x.shape == right.shape for x, right in zip(found, expected, strict=True))
    return pass_errors(found, expected)
