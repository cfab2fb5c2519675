"""The interface of operators and kernels: what operators hand to kernels, and what they ask of them.

A *call* is one use of an operator with checked, contiguous operands. A *kernel* is anything with the functions of the
protocol, a module for instance: plain functions of tensors, to which autograd and compilers mean nothing. Backends
import this module; it imports none of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from glm_kernels.documents import Documents, documents_of
from glm_kernels.patterns import Pattern
from glm_kernels.state import RecurrenceState

LARGEST_SLOTS = 32
"""Live rows up to which Triton has kernels that work on segments of a sequence in parallel, and sum up a shard.

More carry too much for one program: its maps no longer fit into registers. With 64 slots it took 25.7 ms forward where
a chain of programs takes 0.4 (window:64, B4 T8192, 16 heads of 128, bf16), with 128 slots 176 ms (H200, Triton 3.6).
It is a limit of speed alone: the results, once thought to be wrong, were measured to be as exact as with fewer slots
(fp32 and bf16, widths of 64 and 128)."""


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


KeptShapes = list[tuple[tuple[int, ...], torch.dtype]]
"""Shapes and dtypes of the tensors that kernels keep beside y for the backward pass."""


class RecurrenceKernel(Protocol):
    """Kernels of the structured recurrence."""

    def forward(self, call: RecurrenceCall) -> tuple[Tensor, ...]:
        """y `[B, T, H, V]` in v's dtype, and up to two tensors of the kernel's own for the backward pass.

        What shapes these have, `dispatch.kept_shapes` says beforehand.
        """

    def backward(self, call: RecurrenceCall, y: Tensor, grad: Tensor, kept: Tensor, more: Tensor, /) -> list[Tensor]:
        """Gradients of q, k, v, d and, with a state, of its k and y, from y's gradient and what `forward` gave.

        kept, more: the tensors that `forward` gave beside y, empty where it gave fewer.
        """


class RecurrenceFamily(RecurrenceKernel, Protocol):
    """Kernels that serve some of the patterns, and say which."""

    def why_not(self, call: RecurrenceCall) -> str | None:
        """Why these kernels cannot serve a call of operands that their backend can serve; None if they can."""

    def kept_shapes(self, call: RecurrenceCall) -> KeptShapes:
        """Of what `forward` gives beside y; follows from shapes and dtypes alone, which a compiler knows."""


@dataclass(frozen=True)
class ShardEnd:
    """What stands in the S slots at the end of a shard of L tokens."""

    leaves: Tensor
    """int64 `[B, S]`: the token of this shard in each slot, counted from its first, −1 for none of its own."""
    stays: Tensor
    """bool `[B, S]`: slots that hold what they held at the shard's start."""

    @property
    def slots(self) -> int:
        """S."""
        return self.leaves.shape[1]


class ShardKernel(Protocol):
    """Kernels that sum up a shard: plain functions whose `kept` and `saved` only they understand."""

    def forward_local(self, call: RecurrenceCall, end: ShardEnd) -> tuple[Tensor, Tensor, Any]:
        """M, N, kept. The call's state has keys; its outputs are unknown."""

    def forward_finish(self, kept: Any, boundary_y: Tensor) -> tuple[Tensor, Any]:
        """y, saved."""

    def backward_local(self, saved: Any, grad_y: Tensor) -> tuple[Tensor, Tensor, Any]:
        """Mᵀ, its new term, kept."""

    def backward_finish(self, kept: Any, left_grad: Tensor) -> list[Tensor]:
        """Gradients of q, k, v, d, boundary_k and boundary_y."""


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
    """Kernels of the first-order recurrence with state expansion."""

    def forward(self, call: SSMCall) -> tuple[Tensor, Tensor | None]:
        """y `[B, T, H, V]` in v's dtype and, if it is asked for, the final state in `accumulation_dtype`."""

    def backward(self, call: SSMCall, grad: Tensor | None, final_grad: Tensor | None) -> list[Tensor]:
        """Gradients of q, k, v, log_decay and, with one, of the state, from those of what `forward` gave."""

    def summary(self, k: Tensor, v: Tensor, log_decay: Tensor, document_starts: Tensor | None) -> tuple[Tensor, Tensor]:
        """Of a shard of rows: decay `[B, H]` and added `[B, H, K, V]`, with which h ↦ decay · h + added leaves it."""

    def adjoint_summary(
        self, q: Tensor, grad: Tensor, log_decay: Tensor, scale: float, document_starts: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The same of the gradient of the state that leaves the shard."""
