"""The operators as torch sees them (torch.library): `torch.ops.glm_kernels.recurrence` and `.ssm`.

A compiler sees one node each for the forward and the backward pass, whose shapes follow from the operands' shapes
alone: which kernels run, and everything that depends on values, is decided inside, when the node runs. Differentiable
once: the gradients have no gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from glm_kernels.checks import check_packing_values, check_positions, check_room
from glm_kernels.dispatch import kept_shapes, recurrence_kernel, ssm_kernel
from glm_kernels.kernel_interface import RecurrenceCall, SSMCall
from glm_kernels.patterns import parse_pattern
from glm_kernels.precision import accumulation_dtype, without_autocast
from glm_kernels.state import RecurrenceState

Gradients = list[Tensor]
Outputs = tuple[Tensor, ...]

_LIBRARY = torch.library.Library("glm_kernels", "FRAGMENT")


class _Operator:
    """A differentiable operator with some results, registered as `name` and `name_backward`.

    arguments: of its schema. forward, backward: what runs; backward takes the results' gradients (None for one that
    is not needed), then the results if it `needs_results`, then the arguments, and gives the gradients of the tensors
    among the arguments that are named in `differentiable`, in that order. fake: empty results of the right shapes.
    """

    def __init__(
        self,
        name: str,
        arguments: str,
        forward: Callable[..., Outputs],
        backward: Callable[..., Gradients],
        fake: Callable[..., Outputs],
        results: int,
        differentiable: tuple[str, ...],
        needs_results: bool,
    ) -> None:
        self._needs_results = needs_results
        names = [argument.split()[-1] for argument in arguments.split(",")]
        self._differentiable = [name in differentiable for name in names]
        given = [f"Tensor? grad{i}" for i in range(results)]
        given += [f"Tensor result{i}" for i in range(results) if needs_results]
        schemas = {
            name: f"({arguments}) -> ({', '.join(['Tensor'] * results)})",
            f"{name}_backward": f"({', '.join(given)}, {arguments}) -> Tensor[]",
        }
        self._run, self._run_backward = forward, backward
        for (operator, schema), run in zip(schemas.items(), (self._results, self._cast_gradients), strict=True):
            _LIBRARY.define(operator + schema, tags=(torch.Tag.pt2_compliant_tag,))
            _LIBRARY.impl(operator, run, "CompositeExplicitAutograd")
        namespace = torch.ops.glm_kernels
        self.forward, self.backward = (getattr(namespace, operator).default for operator in schemas)
        torch.library.register_fake(f"glm_kernels::{name}", fake, lib=_LIBRARY)
        torch.library.register_fake(f"glm_kernels::{name}_backward", self._fake_gradients, lib=_LIBRARY)
        torch.library.register_autograd(f"glm_kernels::{name}", self._gradients, setup_context=self._save, lib=_LIBRARY)
        torch.library.register_autograd(f"glm_kernels::{name}_backward", _refuse, lib=_LIBRARY)
        self._function = self._without_the_dispatcher()

    def __call__(self, *arguments: Any) -> Outputs:
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return self.forward(*arguments)
        return self._function.apply(*arguments)

    def _without_the_dispatcher(self) -> type[torch.autograd.Function]:
        """The same differentiable operator for eager mode, at a quarter of the dispatcher's time on the host."""
        operator = self

        class Function(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *inputs: Any) -> Outputs:
                output = operator.forward(*inputs)
                operator._save(ctx, inputs, output)
                return output

            @staticmethod
            def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
                return operator._gradients(ctx, *grads)

        return Function

    def _save(self, ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
        kept = [x if isinstance(x, Tensor) else None for x in inputs]
        ctx.save_for_backward(*kept, *(output if self._needs_results else ()))
        ctx.rest = [None if isinstance(x, Tensor) else x for x in inputs]
        ctx.set_materialize_grads(False)

    def _gradients(self, ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        count = len(ctx.rest)
        if all(grad is None for grad in grads):
            return (None,) * count
        saved = ctx.saved_tensors
        inputs = [x if rest is None else rest for x, rest in zip(saved[:count], ctx.rest, strict=True)]
        found = iter(self.backward(*grads, *saved[count:], *inputs))
        named = zip(inputs, self._differentiable, strict=True)
        return tuple(next(found) if differentiable and x is not None else None for x, differentiable in named)

    def _results(self, *arguments: Any) -> Outputs:
        with without_autocast(arguments[0].device):
            return self._run(*arguments)

    def _cast_gradients(self, *arguments: Any) -> Gradients:
        """A state may have another dtype than its kernels work in."""
        inputs = self._differentiable_of(arguments)
        with without_autocast(inputs[0].device):
            found = self._run_backward(*arguments)
        return [gradient.to(x.dtype) for gradient, x in zip(found, inputs, strict=True)]

    def _fake_gradients(self, *arguments: Any) -> Gradients:
        return [x.new_empty(x.shape) for x in self._differentiable_of(arguments)]

    def _differentiable_of(self, arguments: tuple[Any, ...]) -> list[Tensor]:
        named = zip(arguments[-len(self._differentiable) :], self._differentiable, strict=True)
        return [x for x, differentiable in named if differentiable and x is not None]


def _refuse(ctx: Any, *grads: Any) -> None:
    raise RuntimeError("the gradients of glm_kernels' operators cannot be differentiated; use backend = 'reference'")


_PACKING = "Tensor? cu_seqlens, Tensor? document_starts"


def _recurrence_call(
    q: Tensor, k: Tensor, v: Tensor, d: Tensor, pattern: str, scale: float, cu_seqlens: Tensor | None,
    document_starts: Tensor | None, state_k: Tensor | None, state_y: Tensor | None, state_position: Tensor | None,
    state_room: int | None,
) -> RecurrenceCall:  # fmt: skip
    state = None
    if state_k is not None and state_y is not None and state_position is not None:
        state = RecurrenceState(state_k.contiguous(), state_y.contiguous(), state_position.long(), state_room)
    q, k, v, d = (x.contiguous() for x in (q, k, v, d))
    cu_seqlens, document_starts = _on_device(cu_seqlens, q), _on_device(document_starts, q)
    return RecurrenceCall(q, k, v, d, parse_pattern(pattern), scale, cu_seqlens, document_starts, state)


def _on_device(packing: Tensor | None, q: Tensor) -> Tensor | None:
    return None if packing is None else packing.to(q.device)


def _recurrence(*arguments: Any) -> Outputs:
    *operands, backend = arguments
    q, *_, cu_seqlens, document_starts, _, _, _, _ = operands
    check_packing_values(q.shape[1], cu_seqlens, document_starts)
    call = _recurrence_call(*operands)
    if call.state is not None:
        check_room(call.state, call.pattern)
        if call.state.room is None or not q.is_cuda:
            check_positions(call.state, call.pattern)
    y, *kept = recurrence_kernel(call, backend).forward(call)
    return y, *_conforming(kept, call, backend)


def _recurrence_backward(
    grad: Tensor | None, _kept: None, _more: None, y: Tensor, kept: Tensor, more: Tensor, *arguments: Any
) -> Gradients:
    *operands, backend = arguments
    call = _recurrence_call(*operands)
    grad = torch.zeros_like(y) if grad is None else grad.contiguous()
    return recurrence_kernel(call, backend).backward(call, y, grad, kept, more)


def _recurrence_shapes(*arguments: Any) -> Outputs:
    *operands, backend = arguments
    call = _recurrence_call(*operands)
    return call.v.new_empty(call.v.shape), *_conforming([], call, backend)


def _conforming(kept: list[Tensor], call: RecurrenceCall, backend: str) -> list[Tensor]:
    """Two tensors of the shapes that were announced: those kept, zeros for one that is not, empty without a shape."""
    shapes = kept_shapes(call, backend)
    given = kept[: len(shapes)]
    given += [call.q.new_zeros(shape, dtype=dtype) for shape, dtype in shapes[len(given) :]]
    return given + [_empty(call.q) for _ in range(2 - len(given))]


def _empty(x: Tensor) -> Tensor:
    """In place of a result that there is not."""
    return x.new_empty(0)


def _ssm_call(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, scale: float, cu_seqlens: Tensor | None,
    document_starts: Tensor | None, state: Tensor | None, output_final_state: bool,
) -> SSMCall:  # fmt: skip
    q, k, v, log_decay = (x.contiguous() for x in (q, k, v, log_decay))
    state = None if state is None else state.contiguous()
    cu_seqlens, document_starts = _on_device(cu_seqlens, q), _on_device(document_starts, q)
    return SSMCall(q, k, v, log_decay, scale, cu_seqlens, document_starts, state, output_final_state)


def _ssm(*arguments: Any) -> Outputs:
    *operands, backend = arguments
    q, *_, cu_seqlens, document_starts, _, _ = operands
    check_packing_values(q.shape[1], cu_seqlens, document_starts)
    call = _ssm_call(*operands)
    y, final = ssm_kernel(call, backend).forward(call)
    return y, _empty(call.q) if final is None else final


def _ssm_backward(grad: Tensor | None, final_grad: Tensor | None, *arguments: Any) -> Gradients:
    *operands, backend = arguments
    call = _ssm_call(*operands)
    return ssm_kernel(call, backend).backward(call, grad, final_grad if call.output_final_state else None)


def _ssm_shapes(*arguments: Any) -> Outputs:
    q, _, v, _, _, cu_seqlens, _, _, output_final_state, _ = arguments
    if not output_final_state:
        return v.new_empty(v.shape), _empty(q)
    carried = q.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    final = q.new_empty(carried, q.shape[2], q.shape[3], v.shape[3], dtype=accumulation_dtype(q.dtype))
    return v.new_empty(v.shape), final


recurrence = _Operator(
    "recurrence",
    f"Tensor q, Tensor k, Tensor v, Tensor d, str pattern, float scale, {_PACKING}, "
    "Tensor? state_k, Tensor? state_y, Tensor? state_position, int? state_room, str backend",
    _recurrence,
    _recurrence_backward,
    _recurrence_shapes,
    results=3,
    differentiable=("q", "k", "v", "d", "state_k", "state_y"),
    needs_results=True,
)
"""y `[B, T, H, V]` and what `RecurrenceKernel.forward` gives beside it, for the backward pass."""

ssm = _Operator(
    "ssm",
    f"Tensor q, Tensor k, Tensor v, Tensor log_decay, float scale, {_PACKING}, "
    "Tensor? state, bool output_final_state, str backend",
    _ssm,
    _ssm_backward,
    _ssm_shapes,
    results=2,
    differentiable=("q", "k", "v", "log_decay", "state"),
    needs_results=False,
)
"""y `[B, T, H, V]` and the final state `[N, H, K, V]`, empty if it is not asked for."""
