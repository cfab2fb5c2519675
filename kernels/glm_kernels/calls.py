"""What the operators hand to a family of kernels, and what they ask of it.

A *call* is one use of an operator with checked, contiguous operands. A *kernel* is anything with the functions of the
protocol, a module for instance: plain functions of tensors, to which autograd and compilers mean nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from glm_kernels.documents import Documents, documents_of
from glm_kernels.patterns import Pattern
from glm_kernels.state import RecurrenceState


@dataclass(frozen=True)
class RecurrenceCall:
    """Operands as in `glm_kernels.recurrence`; `state` is the initial state."""

    q: Tensor
    k: Tensor
    v: Tensor
    d: Tensor
    pattern: Pattern
    scale: float
    cu_seqlens: Tensor | None
    document_starts: Tensor | None
    state: RecurrenceState | None

    @cached_property
    def reach(self) -> int:
        """No document has more tokens than this when the call ends. Waits for the device if a state has no room."""
        if self.state is None:
            return self.q.shape[1]
        if self.state.room is not None:
            return max(self.state.room, self.q.shape[1])
        return self.q.shape[1] + int(self.state.position.max())

    @cached_property
    def documents(self) -> Documents:
        """Where documents begin and end. Raises ValueError if the arguments that say so are wrong."""
        batch, length = self.q.shape[:2]
        return documents_of(batch, length, self.cu_seqlens, self.document_starts, self.q.device)


class RecurrenceKernel(Protocol):
    """A family of kernels of the structured recurrence."""

    def outputs(self, call: RecurrenceCall) -> tuple[Tensor, ...]:
        """y `[B, T, H, V]` in v's dtype, and up to two tensors of the kernel's own for the backward pass.

        What shapes these have, `triton_backend.dispatch.kept_shapes` says beforehand.
        """

    def gradients(self, call: RecurrenceCall, y: Tensor, grad: Tensor, *kept: Tensor) -> list[Tensor]:
        """Gradients of q, k, v, d and, with a state, of its k and y, from y's gradient and what `outputs` gave."""


@dataclass(frozen=True)
class SSMCall:
    """Operands as in `glm_kernels.ssm`; `state` is the initial state `[N, H, K, V]`."""

    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor
    scale: float
    cu_seqlens: Tensor | None
    document_starts: Tensor | None
    state: Tensor | None
    output_final_state: bool

    @cached_property
    def documents(self) -> Documents:
        """Where documents begin and end. Raises ValueError if the arguments that say so are wrong."""
        batch, length = self.q.shape[:2]
        return documents_of(batch, length, self.cu_seqlens, self.document_starts, self.q.device)


class SSMKernel(Protocol):
    """A family of kernels of the first-order recurrence with state expansion."""

    def outputs(self, call: SSMCall) -> tuple[Tensor, Tensor | None]:
        """y `[B, T, H, V]` in v's dtype and, if it is asked for, the final state in `accumulation_dtype`."""

    def gradients(self, call: SSMCall, grad: Tensor | None, final_grad: Tensor | None) -> list[Tensor]:
        """Gradients of q, k, v, log_decay and, with one, of the state, from those of what `outputs` gave."""

    def summary(self, k: Tensor, v: Tensor, log_decay: Tensor, document_starts: Tensor | None) -> tuple[Tensor, Tensor]:
        """Of a shard of rows: decay `[B, H]` and added `[B, H, K, V]`, with which h ↦ decay · h + added leaves it."""

    def adjoint_summary(
        self, q: Tensor, grad: Tensor, log_decay: Tensor, scale: float, document_starts: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The same of the gradient of the state that leaves the shard."""


def accumulation_dtype(operands: torch.dtype) -> torch.dtype:
    """What sums over operands of this dtype are kept in: float32, or float64 for float64."""
    return torch.promote_types(operands, torch.float32)
