"""The public operators of a token's products with weights, and of what a transformer computes around them.

One row on a GPU reads every weight once, in one launch for all that is asked; more rows, and other devices, take the
library's matrix products.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from glm_kernels.checks import Backend, check_backend
from glm_kernels.dispatch import projects_in_triton


@torch.no_grad()
def project(
    x: Tensor,
    weights: Sequence[Tensor],
    *,
    bias: Tensor | None = None,
    norm: Tensor | None = None,
    eps: float = 0.0,
    backend: Backend = "auto",
) -> list[Tensor]:
    """Products of x `[…, D]` with weights `[outputs, D]`: `[…, outputs]` each. Not differentiable.

    bias: of the last weight. norm `[D]`: x is divided by its root mean square first, the mean increased by `eps`, and
    scaled. Weights that lie one behind the other in memory are multiplied as one, and the results are its columns.
    """
    check_backend(backend)
    whole = _as_one(weights)
    if whole is None:
        biases = [*[None] * (len(weights) - 1), bias]
        if not projects_in_triton(x, weights, backend):
            x, norm = _normed(x, norm, eps), None
        return [_product(x, w, b, w.shape[0], norm, eps, backend) for w, b in zip(weights, biases, strict=True)]
    sizes = [len(weight) for weight in weights]
    return list(_product(x, whole, bias, sizes[-1], norm, eps, backend).split(sizes, -1))


@torch.no_grad()
def project_gated(
    x: Tensor, gate: Tensor, up: Tensor, *, norm: Tensor | None = None, eps: float = 0.0, backend: Backend = "auto"
) -> Tensor:
    """silu(gate · x) · (up · x): `[…, outputs]` of x `[…, D]`, gate and up `[outputs, D]`, norm as in `project`."""
    check_backend(backend)
    if projects_in_triton(x, (gate, up), backend):
        from glm_kernels.triton_backend.decode import projections

        y = projections.project(x.reshape(1, -1), up, gate=gate, norm=norm, eps=eps)
        return y.view(*x.shape[:-1], -1)
    opening, rows = project(x, (gate, up), norm=norm, eps=eps, backend=backend)
    return F.silu(opening) * rows


@torch.no_grad()
def project_onto(stream: Tensor, weight: Tensor, x: Tensor, *, backend: Backend = "auto") -> Tensor:
    """stream + weight · x: `[…, outputs]` of x `[…, D]`."""
    check_backend(backend)
    if projects_in_triton(x, (weight,), backend):
        from glm_kernels.triton_backend.decode import projections

        return projections.project(x.reshape(1, -1), weight, residual=stream.contiguous()).view(stream.shape)
    return stream + F.linear(x, weight)


def _product(
    x: Tensor, weight: Tensor, bias: Tensor | None, biased: int, norm: Tensor | None, eps: float, backend: Backend
) -> Tensor:
    """weight · x; the bias is of the last `biased` outputs."""
    if projects_in_triton(x, (weight,), backend):
        from glm_kernels.triton_backend.decode import projections

        first = len(weight) - biased
        y = projections.project(x.reshape(1, -1), weight, norm=norm, eps=eps, bias=bias, biased_from=first)
        return y.view(*x.shape[:-1], -1)
    y = F.linear(_normed(x, norm, eps), weight, bias if biased == len(weight) else None)
    if bias is not None and biased < len(weight):
        y[..., -biased:] += bias
    return y


def _normed(x: Tensor, norm: Tensor | None, eps: float) -> Tensor:
    return x if norm is None else F.rms_norm(x, norm.shape, norm, eps)


def _as_one(weights: Sequence[Tensor]) -> Tensor | None:
    """The weights as one, if they lie one behind the other."""
    first, end = weights[0], weights[0].data_ptr()
    for weight in weights:
        if weight.data_ptr() != end or not weight.is_contiguous() or weight.shape[1:] != first.shape[1:]:
            return None
        if weight.dtype != first.dtype or weight.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
            return None
        end += weight.nbytes
    rows, inputs = sum(len(weight) for weight in weights), first.shape[1]
    return torch.as_strided(first, (rows, inputs), (inputs, 1), first.storage_offset())
