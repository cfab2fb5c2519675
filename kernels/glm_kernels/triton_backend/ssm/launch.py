"""The first-order recurrence with state expansion in Triton: how its passes are launched.

`forward` and `backward` are the functions of `SSMKernel`; `summary` and `adjoint_summary` are for sequence shards.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from glm_kernels.kernel_interface import SSMCall
from glm_kernels.triton_backend.common.constants import Constants
from glm_kernels.triton_backend.common.tiles import product_width
from glm_kernels.triton_backend.ssm.decays import decay_pass
from glm_kernels.triton_backend.ssm.outputs import output_pass
from glm_kernels.triton_backend.ssm.segments import segment_rows, segments_of_documents, segments_of_rows
from glm_kernels.triton_backend.ssm.states import fold_pass, state_pass


@dataclass(frozen=True)
class Configuration:
    """Chosen by dtype, never by timing.

    chunk: rows of a chunk. state_numbers: of a state, in the registers of one program; wider values are cut into
    blocks. dtype, precision: of products.
    """

    chunk: int
    state_numbers: int
    warps: int
    stages: int
    dtype: tl.dtype
    precision: str


CONFIGURATIONS = {
    torch.bfloat16: Configuration(64, 8192, 4, 2, tl.bfloat16, "tf32"),
    # Sums of float16 numbers can leave its range. TF32 has its digits, and more range.
    torch.float16: Configuration(32, 4096, 4, 1, tl.float32, "tf32"),
    torch.float32: Configuration(16, 4096, 8, 1, tl.float32, "ieee"),
}


@dataclass(frozen=True, eq=False)
class Case(Constants):
    """What the kernels that walk through the chunks of a segment are compiled for."""

    C: tl.constexpr
    """Rows of a chunk."""
    SEGMENT: tl.constexpr
    """Rows of a segment."""
    K: tl.constexpr
    V: tl.constexpr
    K2: tl.constexpr
    """Lanes of a tile of keys: K, padded."""
    BLOCK: tl.constexpr
    """Lanes of V that a program works on."""
    PACKED: tl.constexpr
    """Documents begin within sequences."""
    REVERSE: tl.constexpr
    """The walk is from the last chunk to the first."""
    FINAL: tl.constexpr
    """The state when the walk is over is wanted."""
    DTYPE: tl.constexpr
    """Of the factors of products."""
    PRECISION: tl.constexpr
    """Of products of float32 tiles."""
    STAGES: tl.constexpr
    """Of the loops over chunks."""
    FROM_STATE: tl.constexpr = False
    """Of `output_pass`: segments are entered with states, and not with zeros."""
    TERMS: tl.constexpr = "none"
    """Of `output_pass`: "pairs" or "edge" if it also sums up what the gradient of the log decays is made of."""


class _Passes:
    """The passes over the rows of one call. States are `[·, H, K, V]` in float32."""

    def __init__(self, call: SSMCall) -> None:
        batch, length, self.heads, self.key_dim = call.q.shape
        self.value_dim = call.v.shape[3]
        self.call = call
        self.total_rows = batch * length
        self.configuration = CONFIGURATIONS[call.q.dtype]
        rows = segment_rows(batch * length, self.heads * self.blocks(self.key_dim, self.value_dim))
        if call.cu_seqlens is not None:
            self.segments = segments_of_documents(call.cu_seqlens, length, rows)
        else:
            self.segments = segments_of_rows(batch, length, rows, call.q.device)
        self.packed = call.document_starts is not None
        self.starts = self.segments.first if call.document_starts is None else call.document_starts.int().contiguous()

    def blocks(self, key_dim: int, value_dim: int) -> int:
        """Into how many parts the values are cut."""
        return triton.cdiv(value_dim, self._block(key_dim, value_dim))

    def _block(self, key_dim: int, value_dim: int) -> int:
        return min(128, self.configuration.state_numbers // product_width(key_dim), product_width(value_dim))

    def _case(
        self, key_dim: int, value_dim: int, *, reverse: bool, final: bool, from_state: bool = False, terms: str = "none"
    ) -> Case:
        chosen = self.configuration
        return Case.of(
            C=chosen.chunk, SEGMENT=self.segments.rows, K=key_dim, V=value_dim, K2=product_width(key_dim),
            BLOCK=self._block(key_dim, value_dim), PACKED=self.packed, REVERSE=reverse, FINAL=final,
            DTYPE=chosen.dtype, PRECISION=chosen.precision, STAGES=chosen.stages, FROM_STATE=from_state, TERMS=terms,
        )  # fmt: skip

    def state(self, count: int) -> Tensor:
        shape = (count, self.heads, self.key_dim, self.value_dim)
        return torch.empty(shape, dtype=torch.float32, device=self.call.q.device)

    def edges(
        self, k: Tensor, v: Tensor, start: Tensor | None, scale: float, *, reverse: bool, final: Tensor | None = None
    ) -> Tensor | None:
        """The states with which the segments are entered, None if all are zero; `final` takes the state at the end."""
        segments = self.segments
        if not segments.many and final is None:
            return start
        added = self.state(segments.count)
        kept = torch.empty(segments.count, self.heads, dtype=torch.float32, device=k.device)
        widths = k.shape[3], v.shape[3]
        state_pass[(self.blocks(*widths) * self.heads * segments.count,)](
            k, v, self.call.log_decay, self.starts, added, kept, segments.table, self.heads, scale,
            CASE=self._case(*widths, reverse=reverse, final=final is not None), num_warps=self.configuration.warps,
        )  # fmt: skip
        numbers = self.key_dim * self.value_dim
        block = min(1024, triton.next_power_of_2(numbers))
        fold_pass[(triton.cdiv(numbers, block), self.heads, segments.sequences)](
            added, kept, kept if start is None else start, kept if final is None else final, segments.first,
            self.heads, numbers,
            BLOCK=block, FROM_STATE=start is not None, FINAL=final is not None, REVERSE=reverse, num_warps=4,
        )  # fmt: skip
        return added

    def outputs(
        self,
        operands: tuple[Tensor, Tensor, Tensor],
        states: Tensor | None,
        *,
        reverse: bool = False,
        transposed: bool = False,
        final: Tensor | None = None,
        other: Tensor | None = None,
        terms: Tensor | None = None,
    ) -> Tensor:
        """The recurrence of q, k, v, whose states are stored with the axes of q and v exchanged if `transposed`."""
        q, k, v = operands
        y = torch.empty_like(v)
        widths = q.shape[3], v.shape[3]
        strides = (1, self.value_dim) if transposed else (self.value_dim, 1)
        case = self._case(
            *widths, reverse=reverse, final=final is not None, from_state=states is not None,
            terms="none" if terms is None else "edge" if reverse else "pairs",
        )  # fmt: skip
        output_pass[(self.blocks(*widths) * self.heads * self.segments.count,)](
            q, k, v, self.call.log_decay, self.starts, q if states is None else states, y,
            q if final is None else final, q if other is None else other, q if terms is None else terms,
            self.segments.table, self.heads, self.total_rows, float(self.call.scale), *strides,
            CASE=case, num_warps=self.configuration.warps,
        )  # fmt: skip
        return y

    def decay_gradient(
        self, terms: Tensor, states: Tensor | None, adjoints: Tensor | None, start: Tensor | None, grad: Tensor | None
    ) -> Tensor:
        gradient = torch.empty_like(self.call.log_decay)
        numbers = self.key_dim * self.value_dim
        decay_pass[(self.heads, self.segments.count)](
            terms, self.starts, terms if states is None else states, terms if adjoints is None else adjoints,
            terms if start is None else start, terms if grad is None else grad, gradient, self.segments.table,
            self.heads, self.total_rows,
            C=64, SEGMENT=self.segments.rows, SIZE=numbers, BLOCK=min(2048, triton.next_power_of_2(numbers)),
            SLABS=len(terms), PACKED=self.packed, MANY=self.segments.many, FROM_STATE=start is not None, num_warps=4,
        )  # fmt: skip
        return gradient


def forward(call: SSMCall) -> tuple[Tensor, Tensor | None]:
    """y `[B, T, H, V]` in v's dtype and, if it is asked for, the final state `[N, H, K, V]` in float32."""
    passes = _Passes(call)
    final = passes.state(passes.segments.sequences) if call.output_final_state else None
    states = passes.edges(call.k, call.v, _float32(call.state), 1.0, reverse=False)
    return passes.outputs((call.q, call.k, call.v), states, final=final), final


def backward(call: SSMCall, grad: Tensor | None, final_grad: Tensor | None) -> list[Tensor]:
    """Gradients of q, k, v, log_decay and, with one, of the state, from those of what `forward` gave."""
    q, k, v = call.q, call.k, call.v
    grad = torch.zeros_like(v) if grad is None else grad.contiguous()
    final_grad, state = _float32(final_grad), _float32(call.state)
    passes = _Passes(call)
    sequences = passes.segments.sequences
    states = passes.edges(k, v, state, 1.0, reverse=False)
    adjoints = passes.edges(q, grad, final_grad, call.scale, reverse=True)

    blocks = passes.blocks(v.shape[3], k.shape[3])
    terms = torch.empty(2 * blocks, passes.heads, passes.total_rows, dtype=torch.float32, device=q.device)
    state_grad = None if state is None else passes.state(sequences)
    dq = passes.outputs((grad, v, k), states, transposed=True, other=q, terms=terms[:blocks])
    dk = passes.outputs((v, grad, q), adjoints, reverse=True, transposed=True, other=k, terms=terms[blocks:])
    dv = passes.outputs((k, q, grad), adjoints, reverse=True, final=state_grad)
    dlog_decay = passes.decay_gradient(terms, states, adjoints, state, state_grad)
    return [dq, dk, dv, dlog_decay, *([] if state_grad is None else [state_grad])]


def summary(k: Tensor, v: Tensor, log_decay: Tensor, document_starts: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What a shard of rows does to the state h that enters it: h ↦ decay · h + added (math: the state pass alone).

    k `[B, T, H, K]`, v `[B, T, H, V]`, log_decay `[B, T, H]`, document_starts `[B, T]` counted from the shard's first
    row; only the document that starts at row 0 sees h. Returns decay `[B, H]` and added `[B, H, K, V]`, float32.
    """
    return _shard_decay(log_decay, document_starts), _edge(k, v, log_decay, 1.0, document_starts, reverse=False)


def adjoint_summary(
    q: Tensor, grad: Tensor, log_decay: Tensor, scale: float, document_starts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same for the way back: g ↦ decay · g + added, of the gradient g of the state that leaves the shard.

    grad `[B, T, H, V]`: the gradient of y. The result is the gradient of the state that enters the shard.
    """
    return _shard_decay(log_decay, document_starts), _edge(q, grad, log_decay, scale, document_starts, reverse=True)


def _edge(k: Tensor, v: Tensor, log_decay: Tensor, scale: float, starts: Tensor | None, *, reverse: bool) -> Tensor:
    k, v, log_decay = (x.contiguous() for x in (k, v, log_decay))
    passes = _Passes(SSMCall(k, k, v, log_decay, scale, None, starts, None, True))
    state = passes.state(len(k))
    passes.edges(k, v, None, scale, reverse=reverse, final=state)
    return state


def _shard_decay(log_decay: Tensor, starts: Tensor | None) -> Tensor:
    decay = log_decay.float().sum(1).exp()
    return decay if starts is None else decay * (starts[:, -1:] <= 0)


def _float32(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float().contiguous()
