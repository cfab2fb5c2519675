"""Outputs with more digits than their dtype has: beside y an int8 *residual*, the eight digits that rounding cut off.

Gradients of scores are differences of outputs, which often agree in most of bfloat16's digits. There are no residuals
of float32.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def fine(y, residual, mask):
    """Outputs and their residuals at these places as one number each, in fp32."""
    DTYPE: tl.constexpr = y.dtype.element_ty
    outputs = tl.load(y, mask=mask, other=0.0).to(tl.float32)
    if DTYPE != tl.float32:
        outputs = refined(outputs, tl.load(residual, mask=mask, other=0), DTYPE)
    return outputs


@triton.jit
def refined(rounded, residual, DTYPE: tl.constexpr):
    """fp32 numbers that were rounded to DTYPE, with the digits that were cut off."""
    digits = residual.to(tl.int32) << residual_shift(DTYPE)
    return (rounded.to(tl.int32, bitcast=True) + digits).to(tl.float32, bitcast=True)


@triton.jit
def store_fine(y, residual, outputs, mask):
    """Stores outputs, rounded, and their residuals; none of float32."""
    DTYPE: tl.constexpr = y.dtype.element_ty
    rounded = outputs.to(DTYPE)
    tl.store(y, rounded, mask=mask)
    if DTYPE != tl.float32:
        cut = outputs.to(tl.int32, bitcast=True) - rounded.to(tl.float32).to(tl.int32, bitcast=True)
        half: tl.constexpr = 1 << (residual_shift(DTYPE) - 1)
        cut = tl.minimum(tl.maximum((cut + half) >> residual_shift(DTYPE), -128), 127)
        tl.store(residual, cut.to(tl.int8), mask=mask)


@triton.constexpr_function
def residual_shift(dtype):
    """Binary digits of a float32 below those in a rounded output and its residual."""
    return 8 if dtype == tl.bfloat16 else 5
