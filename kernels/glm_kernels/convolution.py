"""The public operator of a short causal convolution along the tokens of documents, one for each channel."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from glm_kernels.checks import Backend, check_backend, check_convolution
from glm_kernels.dispatch import convolves_in_triton
from glm_kernels.registration import Gradients, Operator, Outputs


def short_convolution(
    x: Tensor,
    weight: Tensor,
    positions: Tensor,
    before: Tensor | None = None,
    *,
    silu: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """y_i = x_i + Σ_s weight_s · x_{i−s} over the `width` tokens i − s of the document of i, and SiLU of that if asked.

    x, y `[B, T, D]`; weight `[width, D]`, sums in at least float32 where kernels serve the call. positions: int
    `[B or 1, T]`, of each token in its document. before `[B, width − 1, D]`: the tokens before the first one, zeros
    unless given. backend: "triton" and "torch" take only theirs; "auto" and "reference" as in `recurrence`.

    Source: such convolutions before a mixer are in Primer (arXiv 2109.08668) and Mamba (arXiv 2312.00752); that they
    add to the token is this project's. Differentiable in x, weight and before: once in Triton's kernels, which a
    compiler sees as one node each way. Raises ValueError naming the argument, what was found and what is allowed.
    """
    check_convolution(x, weight, positions, before)
    check_backend(backend)
    if backend != "reference" and convolves_in_triton(x, weight, backend):
        y: Tensor = _operator(*(z if z is None else z.contiguous() for z in (x, weight, positions, before)), silu)[0]
        return y
    return _defined(x, weight, positions, before, silu)


def _defined(x: Tensor, weight: Tensor, positions: Tensor, before: Tensor | None, silu: bool) -> Tensor:
    length, width = x.shape[1], len(weight)
    rows = F.pad(x, (0, 0, width - 1, 0)) if before is None else torch.cat([before, x], 1)
    y = x * (1 + weight[0])
    for shift in range(1, width):
        earlier = rows.narrow(1, width - 1 - shift, length)
        y = y + weight[shift] * earlier.masked_fill((positions < shift)[..., None], 0)
    return F.silu(y) if silu else y


def _forward(*arguments: Any) -> Outputs:
    from glm_kernels.triton_backend.convolution import launch

    return (launch.forward(*arguments),)


def _backward(grad: Tensor | None, *arguments: Any) -> Gradients:
    from glm_kernels.triton_backend.convolution import launch

    assert grad is not None, "the only result"
    return launch.backward(grad.contiguous(), *arguments)


_operator = Operator(
    "short_convolution",
    "Tensor x, Tensor weight, Tensor positions, Tensor? before, bool silu",
    _forward,
    _backward,
    lambda x, *_: (x.new_empty(x.shape),),
    results=1,
    differentiable=("x", "weight", "before"),
    needs_results=False,
    rehearsed=True,
)
