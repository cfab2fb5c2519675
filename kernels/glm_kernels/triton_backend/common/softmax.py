"""The joint softmax of an input's logit and the scores of past tokens, by binary logarithms.

Exponentials are powers of two to the hardware, so scores are multiplied by LOG2_E along with their scale. Beside its
output a kernel stores the binary logarithm of each softmax's denominator, the *norm*, from which the backward pass has
the weights again.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from glm_kernels.triton_backend.common.chain import ASSEMBLES

LOG2_E = tl.constexpr(1.4426950408889634)


def norm_dtype(operands: torch.dtype) -> torch.dtype:
    """Of binary logarithms of softmax denominators: one float32 is too coarse for weights of float32 operands."""
    return torch.float64 if operands == torch.float32 else torch.float32


@triton.jit
def log2(x, DTYPE: tl.constexpr):
    """The hardware's logarithm (23 bits) where operands are in bfloat16: the exact one takes a tenth of a pass."""
    if DTYPE == tl.bfloat16 and ASSEMBLES:
        x = tl.inline_asm_elementwise(
            "lg2.approx.ftz.f32 $0, $1;", "=r,r", [x], dtype=tl.float32, is_pure=True, pack=1
        )  # fmt: skip
    else:
        x = tl.log2(x)
    return x


@triton.jit
def log_norm(top, total, OPERANDS: tl.constexpr, DTYPE: tl.constexpr):
    """The binary logarithm of a softmax denominator, `total` in units of 2^top, as `less` takes it."""
    return top.to(DTYPE) + log2(total, OPERANDS).to(DTYPE)


@triton.jit
def less(scores, norm):
    """scores − norm, where norm is the binary logarithm of a softmax denominator.

    All weights of a row share its rounding, which a float32 of some hundred does not keep below that of float32
    operands: then norm is float64, and is subtracted in two parts.
    """
    if norm.dtype == tl.float64:
        high = norm.to(tl.float32)
        scores = (scores - high) - (norm - high.to(tl.float64)).to(tl.float32)
    else:
        scores -= norm
    return scores
