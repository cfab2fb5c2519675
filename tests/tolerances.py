"""How far apart numbers may be that differ by rounding alone: one rule for all tests, from what went into them.

A processor is free in the order in which it adds, in how it contracts products and in its elementary functions. What
comes out then differs by rounding errors, one for every operation, which are independent of one another and as often
up as down. After n operations one behind another the result is off by no more than

    λ · √n · u · size

but with a probability of about exp(−λ²/2), where u is the unit roundoff of the dtype, and size that of what was summed:
for a sum of products Σ |aᵢ|·|bᵢ|, which is no smaller where Σ aᵢ·bᵢ all but cancels (N. Higham and T. Mary, "A new
approach to probabilistic rounding error analysis", SIAM J. Sci. Comput. 41, 2019). Tensors are judged by their norms.

A test therefore says how many operations stand behind one another (`rounding(dtype, operations)`), and, where what
comes out may be smaller than what went in, of which size that was (`size=`). Gradients come out of one backward pass,
in which the same adjoints meet operands of similar size; so where one of them may cancel, as the gradient of queries
that have nothing to choose from does, the norm of all of them together is the size (`pass_errors`).

Exact equality is asked only of the same arithmetic in the same order, of copies, and of zeros that are never computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

TOO_FAR = "farther off than by rounding"
CERTAINTY = 8
"""λ. What is lost by it is little: planted faults are off by thousands of bounds (`test_planted_faults.py`)."""


def unit(dtype: torch.dtype) -> float:
    """The unit roundoff. Rounding a tensor to nearest, once, moves it by less than half of that part of its norm."""
    return torch.finfo(dtype).eps / 2


def rounding(dtype: torch.dtype, operations: int = 1) -> float:
    """The largest error of so many operations one behind another, as a part of the size of what they work on."""
    return CERTAINTY * math.sqrt(operations) * unit(dtype)


def norm(*tensors: Tensor) -> float:
    """Of all numbers of all tensors together, in float64."""
    return math.sqrt(sum(float(x.detach().double().square().sum()) for x in tensors))


def error(found: Tensor, expected: Tensor, size: float | None = None) -> float:
    """The norm of the difference as a part of `size`, by default the norm of what is expected. Not finite if either is
    not."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    difference = norm(found.detach().double() - expected.detach().double().to(found.device))
    if size is None:
        size = norm(expected)
    return difference / size if size > 0 else (0.0 if difference == 0 else math.inf)


def largest_error(found: Iterable[Tensor], expected: Iterable[Tensor], size: float | None = None) -> float:
    """Of several tensors, pair by pair. NaN counts as the largest."""
    errors = [error(a, b, size) for a, b in zip(found, expected, strict=True)]
    assert errors
    return max(math.inf if math.isnan(x) else x for x in errors)


def assert_close(
    found: Tensor | Iterable[Tensor], expected: Tensor | Iterable[Tensor], bound: float, size: float | None = None
) -> None:
    """Fails if any tensor is off by more than `bound` times `size`, by default its own norm."""
    if isinstance(found, Tensor):
        found = [found]
    if isinstance(expected, Tensor):
        expected = [expected]
    off = largest_error(found, expected, size)
    assert off <= bound, f"{TOO_FAR}: {off:.2e} of the size of what went in, where {bound:.2e} is rounding"


def pass_errors(found: Sequence[Tensor], expected: Sequence[Tensor], outputs: int = 1) -> list[float]:
    """Of outputs, each as a part of its own norm, and of the gradients behind them, as a part of the norm of all."""
    size = norm(*expected[outputs:])
    return [
        *(error(a, b) for a, b in zip(found[:outputs], expected[:outputs], strict=True)),
        *(error(a, b, size) for a, b in zip(found[outputs:], expected[outputs:], strict=True)),
    ]


def assert_pass_close(found: Sequence[Tensor], expected: Sequence[Tensor], bound: float, outputs: int = 1) -> None:
    """Fails if an output or a gradient of one pass is off by more than `bound`."""
    errors = pass_errors(found, expected, outputs)
    shown = ", ".join(f"{x:.2e}" for x in errors)
    assert all(x <= bound for x in errors), (
        f"{TOO_FAR}: {shown} of the size of what went in, where {bound:.2e} is rounding"
    )


def loss_curve(operations: int, steps: int = 1) -> float:
    """The relative error of losses, a mean of positive numbers, after some steps in float32: every step's gradients
    are rounded, and the next one goes on from there."""
    return rounding(torch.float32, operations * steps)
