"""The gate before the clock: an operator that computes something else than the exact result is not timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from glm_kernels.bench.cases import Case, Operands, Shape, operator_case, random_operands
from glm_kernels.patterns import Dense, Lifetime, parse_pattern

LIMITS = {torch.float32: (1e-5, 1e-4), torch.bfloat16: (6e-3, 1.5e-2), torch.float16: (6e-3, 1.5e-2)}
"""Largest relative RMS error of y, and of a gradient."""
SHORT = 300
"""Rows for which the reference, O(T²) or slower, judges. Beyond it the torch path in float64 does, which tests hold to
the reference within 1e-10."""


_LONG_UNLESS_LIFETIME = 2048


def lengths(name: str, shapes: Sequence[Shape]) -> list[int]:
    """The lengths at which an operator is checked before it is timed at `shapes`: a short one, on a GPU a long one too.

    Lifetime kernels are configured by the number of live rows, which grows with the row: theirs is the longest that is
    timed. The kernels of other operators are the same for all lengths, and exact results of long rows cost O(T²).
    """
    if shapes[0].device == "cpu":
        return [SHORT]
    longest = max(shape.length for shape in shapes)
    pattern = None if name == "ssm" else parse_pattern(name)
    by_live_rows = isinstance(pattern, Lifetime) and not isinstance(pattern, Dense)
    return [SHORT, longest if by_live_rows else min(longest, _LONG_UNLESS_LIFETIME)]


@dataclass(frozen=True)
class Check:
    """Relative RMS errors of one operator at one length."""

    operator: str
    length: int
    y_error: float
    gradient_error: float
    right: bool

    def __str__(self) -> str:
        return (
            f"{self.operator}, T = {self.length}: relative error of y {self.y_error:.1e}, "
            f"of gradients up to {self.gradient_error:.1e}"
        )


def check(name: str, shape: Shape, packed: int | None) -> Check:
    """Compares y and all gradients of fresh operands with float64, the operands' own values taken as exact.

    The call has all heads, as when it is timed; of long rows one head is compared, since heads are independent.
    """
    operands = random_operands(shape, packed)
    case = operator_case(name, packed=bool(packed))
    y = case.run(operands)
    found = [y, *case.gradients(y, operands)]
    long = shape.length > SHORT
    judge = operator_case(name, packed=bool(packed), backend="torch" if long else "reference")
    heads = slice(shape.heads - 1, shape.heads) if long else slice(None)
    expected = _exact(judge, operands, heads)
    found = [x[:, :, heads].detach().double() for x in found]
    errors = relative_errors(found, expected)
    allowed_y, allowed_gradient = LIMITS[shape.dtype]
    right = errors[0] <= allowed_y and max(errors[1:]) <= allowed_gradient
    return Check(case.name, shape.length, errors[0], max(errors[1:]), right)


def _exact(judge: Case, operands: Operands, heads: slice) -> list[Tensor]:
    """y and gradients of some heads in float64."""
    fields = vars(operands)
    exact = {name: x[:, :, heads].detach().double().requires_grad_() for name, x in fields.items() if name != "starts"}
    inputs = Operands(**exact, starts=operands.starts)
    y = judge.run(inputs)
    return [y.detach(), *judge.gradients(y, inputs)]


def relative_errors(found: list[Tensor], expected: list[Tensor]) -> list[float]:
    """‖Δ‖ / ‖expected‖ of y and the gradients of q, k, v and a gate; NaN where something is NaN.

    Where softmax is saturated the gradients of q and k vanish: they are held against a thousandth of v's.
    """
    least = 1e-3 * float(expected[3].norm())
    scale = [float(x.norm()) for x in expected]
    scale = [scale[0], *(max(x, least) for x in scale[1:])]
    return [float((a - b).norm()) / max(size, 1e-30) for a, b, size in zip(found, expected, scale, strict=True)]
