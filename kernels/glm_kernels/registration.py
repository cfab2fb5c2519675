"""Operators as torch sees them (torch.library): how one is registered, differentiated and compiled.

A compiler sees one node each for the forward and the backward pass, whose shapes follow from the operands' shapes
alone: which kernels run, and everything that depends on values, is decided inside, when the node runs. Differentiable
once: the gradients have no gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from glm_kernels.precision import without_autocast
from glm_kernels.rehearsal import rehearse

Gradients = list[Tensor]
Outputs = tuple[Tensor, ...]

_LIBRARY = torch.library.Library("glm_kernels", "FRAGMENT")


class Operator:
    """A differentiable operator with some results, registered as `name` and `name_backward`.

    arguments: of its schema. forward, backward: what runs; backward takes the results' gradients (None for one that
    is not needed), then the results if it `needs_results`, then the arguments, and gives the gradients of the tensors
    among the arguments that are named in `differentiable`, in that order. fake: empty results of the right shapes.
    rehearsed: whether what runs is compiled when it first does, so that it pays to begin when a compiler is told of it.
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
        rehearsed: bool = False,
    ) -> None:
        self._needs_results, self._rehearsed, self._single = needs_results, rehearsed, results == 1
        names = [argument.split()[-1] for argument in arguments.split(",")]
        self._differentiable = [name in differentiable for name in names]
        given = [f"Tensor? grad{i}" for i in range(results)]
        given += [f"Tensor result{i}" for i in range(results) if needs_results]
        schemas = {
            name: f"({arguments}) -> ({', '.join(['Tensor'] * results)})",
            f"{name}_backward": f"({', '.join(given)}, {arguments}) -> Tensor[]",
        }
        self._run, self._run_backward, self._fake = forward, backward, fake
        for (operator, schema), run in zip(schemas.items(), (self._results, self._cast_gradients), strict=True):
            _LIBRARY.define(operator + schema, tags=(torch.Tag.pt2_compliant_tag,))
            _LIBRARY.impl(operator, run, "CompositeExplicitAutograd")
        namespace = torch.ops.glm_kernels
        self.forward, self.backward = (getattr(namespace, operator).default for operator in schemas)
        torch.library.register_fake(f"glm_kernels::{name}", self._fake_results, lib=_LIBRARY)
        torch.library.register_fake(f"glm_kernels::{name}_backward", self._fake_gradients, lib=_LIBRARY)
        torch.library.register_autograd(f"glm_kernels::{name}", self._gradients, setup_context=self._save, lib=_LIBRARY)
        torch.library.register_autograd(f"glm_kernels::{name}_backward", _refuse, lib=_LIBRARY)
        self._function = self._without_the_dispatcher()

    def __call__(self, *arguments: Any) -> Outputs:
        traced = torch.compiler.is_compiling() or not torch.is_grad_enabled()
        found = (self.forward if traced else self._function.apply)(*arguments)
        return (found,) if self._single else found

    def _without_the_dispatcher(self) -> type[torch.autograd.Function]:
        """The same differentiable operator for eager mode, at a quarter of the dispatcher's time on the host."""
        operator = self

        class Function(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *inputs: Any) -> Any:
                output = operator.forward(*inputs)
                operator._save(ctx, inputs, output)
                return output

            @staticmethod
            def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
                return operator._gradients(ctx, *grads)

        return Function

    def _save(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        kept = [x if isinstance(x, Tensor) else None for x in inputs]
        results = (output,) if self._single else output
        ctx.save_for_backward(*kept, *(results if self._needs_results else ()))
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

    def _results(self, *arguments: Any) -> Any:
        with without_autocast(arguments[0].device):
            return self._as_schema(self._run(*arguments))

    def _as_schema(self, results: Outputs) -> Any:
        """To torch a single result is none of several."""
        return results[0] if self._single else results

    def _cast_gradients(self, *arguments: Any) -> Gradients:
        """A state may have another dtype than its kernels work in."""
        inputs = self._differentiable_of(arguments)
        with without_autocast(inputs[0].device):
            found = self._run_backward(*arguments)
        return [gradient.to(x.dtype) for gradient, x in zip(found, inputs, strict=True)]

    def _fake_results(self, *arguments: Any) -> Any:
        if self._rehearsed:
            rehearse(self._results, arguments)
        return self._as_schema(self._fake(*arguments))

    def _fake_gradients(self, *arguments: Any) -> Gradients:
        if self._rehearsed:
            rehearse(self._cast_gradients, arguments)
        return [x.new_empty(x.shape) for x in self._differentiable_of(arguments)]

    def _differentiable_of(self, arguments: tuple[Any, ...]) -> list[Tensor]:
        named = zip(arguments[-len(self._differentiable) :], self._differentiable, strict=True)
        return [x for x, differentiable in named if differentiable and x is not None]


def _refuse(ctx: Any, *grads: Any) -> None:
    raise RuntimeError("the gradients of glm_kernels' operators cannot be differentiated; use backend = 'reference'")
