"""One token's products with weights in Triton: how `matvec_pass` is launched, by shape and never by timing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from glm_kernels.triton_backend.decode.matvec import matvec_pass
from glm_kernels.triton_backend.decode.overlap import options

_WIDEST_BLOCK = 8192
_TILE = 8192
"""Numbers of all weights that a program loads at once: 16 KiB in bf16, of which a few programs share a multiprocessor
and keep its part of the memory's bandwidth busy."""


@dataclass(frozen=True)
class _Configuration:
    """Rows of a weight for a program, numbers of a row that it loads at once, its warps."""

    rows: int
    block: int
    warps: int


def _configuration(inputs: int, weights: int) -> _Configuration:
    block = min(triton.next_power_of_2(inputs), _WIDEST_BLOCK)
    rows = max(1, min(16, _TILE // (block * weights)))
    return _Configuration(rows, block, warps=8 if block > 4096 else 4)


def project(
    x: Tensor,
    weight: Tensor,
    *,
    gate: Tensor | None = None,
    norm: Tensor | None = None,
    eps: float = 0.0,
    bias: Tensor | None = None,
    biased_from: int = 0,
    residual: Tensor | None = None,
) -> Tensor:
    """y `[1, outputs]` of x `[1, D]`, as `matvec_pass` says. Weights are contiguous."""
    outputs, inputs = weight.shape
    x = x.contiguous()
    y = torch.empty(1, outputs, dtype=x.dtype, device=x.device)
    chosen = _configuration(inputs, 1 if gate is None else 2)
    matvec_pass[(triton.cdiv(outputs, chosen.rows),)](
        x, weight, *(weight if given is None else given for given in (gate, norm, bias, residual)), y,
        outputs, biased_from, eps,
        D=inputs, NORMED=norm is not None, GATED=gate is not None, BIASED=bias is not None, ADDED=residual is not None,
        ROWS=chosen.rows, BLOCK=chosen.block, num_warps=chosen.warps, **options(x.device),
    )  # fmt: skip
    return y
