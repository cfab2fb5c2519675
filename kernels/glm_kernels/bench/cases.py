"""What is timed: shapes, operands, and our operators by their spelling."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from glm_kernels.operators import recurrence, ssm

DEFAULT_OPERATORS = ["lattice:2^k", "lattice:k^2+1", "window:64", "ssm", "offsets:2^k", "offsets:k^2+1", "dense"]


@dataclass(frozen=True)
class Shape:
    """B batch rows of T tokens, H heads with K = V = `width`."""

    batch: int
    length: int
    heads: int
    width: int
    dtype: torch.dtype
    device: str

    def __str__(self) -> str:
        return f"B{self.batch} T{self.length}"


@dataclass(frozen=True)
class Operands:
    """Leaves q, k, v `[B, T, H, width]` and gates `[B, T, H]`; what the output's gradient is; where documents start."""

    q: Tensor
    k: Tensor
    v: Tensor
    d: Tensor
    log_decay: Tensor
    dy: Tensor
    starts: Tensor | None

    def leaves(self, gate: str | None) -> list[Tensor]:
        """What a case with this gate is differentiated by."""
        return [self.q, self.k, self.v, *([getattr(self, gate)] if gate else [])]


@dataclass(frozen=True)
class Case:
    """One line of the table: a name, y `[B, T, H, width]` of operands, and the name of the gate that it reads."""

    name: str
    run: Callable[[Operands], Tensor]
    gate: str | None = None
    packed: bool = False

    def gradients(self, y: Tensor, operands: Operands) -> list[Tensor]:
        """The backward pass."""
        return list(torch.autograd.grad(y, operands.leaves(self.gate), operands.dy))


def random_operands(shape: Shape, packed: int | None = None) -> Operands:
    """Fresh random operands; `packed`: the mean length of the random documents that fill each batch row."""
    wide = (shape.batch, shape.length, shape.heads, shape.width)

    def made(*size: int) -> Tensor:
        return torch.randn(*size, device=shape.device, dtype=shape.dtype)

    q, k, v = (made(*wide).requires_grad_() for _ in range(3))
    d = made(*wide[:3]).requires_grad_()
    log_decay = (-made(*wide[:3]).abs() / 4).requires_grad_()
    starts = random_documents(shape.batch, shape.length, packed).to(shape.device) if packed else None
    return Operands(q, k, v, d, log_decay, made(*wide), starts)


def random_documents(batch: int, length: int, mean: int) -> Tensor:
    """int32 `[batch, length]`: document starts; lengths are drawn from an exponential distribution around `mean`."""
    starts = torch.zeros(batch, length, dtype=torch.int32)
    for row in starts:
        at = 0
        while at < length:
            row[at:] = at
            at += max(1, math.ceil(-mean * math.log(1.0 - float(torch.rand(())))))
    return starts


def operator_case(name: str, *, packed: bool = False, backend: str = "auto") -> Case:
    """An operator by its spelling: a pattern, or `ssm`; `packed`: documents, whose tables each call builds anew."""
    operator = ssm if name == "ssm" else recurrence
    gate = "log_decay" if name == "ssm" else "d"

    def run(x: Operands) -> Tensor:
        pattern = () if name == "ssm" else (name,)
        starts = x.starts if packed else None
        y, _ = operator(x.q, x.k, x.v, getattr(x, gate), *pattern, document_starts=starts, backend=backend)  # type: ignore[arg-type]
        return y

    return Case(f"{name} packed" if packed else name, run, gate, packed)
