"""Products of tiles that lose less than rounding their factors to 16 bits would, and 16-bit storage of fp32 rows.

A tensor core multiplies 16-bit factors exactly. An fp32 factor is therefore split into two bfloat16 parts of 8 digits
each, and every part multiplied on its own. TF32 would be no substitute: the hardware cuts its digits off instead of
rounding them, and a recurrence adds up that bias. Factors that are in fp32 because the operands are no bfloat16
are multiplied with PRECISION.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def halves(x):
    """bfloat16 tiles whose sum is the fp32 x, but for its last 8 digits."""
    # Cutting off is as good as rounding here, and compiles to packed conversions.
    high = (x.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)
    return high.to(tl.bfloat16), (x - high).to(tl.bfloat16)


@triton.jit
def fine_dot(a, b, acc, PRECISION: tl.constexpr):
    """acc + a · b of an fp32 a; b is bfloat16 or fp32."""
    if b.dtype == tl.bfloat16:
        high, low = halves(a)
        acc = tl.dot(low, b, acc=tl.dot(high, b, acc=acc))
    else:
        acc = tl.dot(a, b, acc=acc, input_precision=PRECISION)
    return acc


@triton.jit
def dot_fine(a, b, acc, PRECISION: tl.constexpr):
    """acc + a · b of an fp32 b; a is bfloat16 or fp32."""
    if a.dtype == tl.bfloat16:
        high, low = halves(b)
        acc = tl.dot(a, low, acc=tl.dot(a, high, acc=acc))
    else:
        acc = tl.dot(a, b, acc=acc, input_precision=PRECISION)
    return acc


@triton.jit
def fine_dot_fine(a, b, acc, SPLIT: tl.constexpr, PRECISION: tl.constexpr):
    """acc + a · b of fp32 tiles, split if the operands are bfloat16."""
    if SPLIT:
        a_high, a_low = halves(a)
        b_high, b_low = halves(b)
        acc = tl.dot(a_high, b_high, acc=acc)
        acc = tl.dot(a_low, b_high, acc=acc)
        acc = tl.dot(a_high, b_low, acc=acc)
    else:
        acc = tl.dot(a, b, acc=acc, input_precision=PRECISION)
    return acc


@triton.jit
def unit_of(largest):
    """For the largest element of something: a unit in which it is below 2^15, and the inverse of the unit.

    Powers of two. Elements 2^29 times smaller still have all digits of a float16.
    """
    exponent = tl.minimum(tl.maximum((largest.to(tl.int32, bitcast=True) >> 23) & 255, 15), 252)
    return ((exponent - 14) << 23).to(tl.float32, bitcast=True), ((268 - exponent) << 23).to(tl.float32, bitcast=True)


@triton.jit
def scaled(x, DTYPE: tl.constexpr):
    """A tile in DTYPE and its unit, which is 1 unless DTYPE is float16."""
    unit = 1.0
    if DTYPE == tl.float16:
        unit, inverse = unit_of(tl.max(tl.max(tl.abs(x), 1), 0))
        x = x * inverse
    return x.to(DTYPE), unit


@triton.jit
def packed(x, inverse, DTYPE: tl.constexpr):
    """Columns of fp32 x, divided by their units, as numbers that a tensor of DTYPE holds with float16's 11 digits."""
    if DTYPE != tl.float32:
        x = (x * inverse[None, :]).to(tl.float16)
        if DTYPE == tl.bfloat16:
            x = x.to(DTYPE, bitcast=True)
    return x


@triton.jit
def unpacked(x, unit):
    """The fp32 rows that `packed` stored as columns."""
    if x.dtype != tl.float32:
        x = x.to(tl.float16, bitcast=True).to(tl.float32) * unit[:, None]
    return x
