"""Products of tiles, and storage in 16 bits, that lose less than rounding everything to 16 bits would.

*Parts.* A tensor core multiplies 16-bit factors exactly. A factor in fp32 is therefore taken as the sum of two 16-bit
parts, each of which is multiplied on its own. TF32 would be no substitute: the hardware cuts its digits off instead of
rounding them, and a recurrence adds up that bias. Factors that are in fp32 because the operands are no bfloat16 are
multiplied with PRECISION.

*Units.* What programs hand to one another is float16 in a *unit*, a power of two for a tile or a token: eight times
more precise than bfloat16, and numbers 2^29 times smaller than the largest one still have all digits.

*Residuals.* Beside an output that was rounded for the caller stands an int8 with the eight digits that rounding cut
off. Gradients of scores are differences of outputs, which often agree in most of bfloat16's digits. There are no
residuals of float32.

`test_numerics` holds each of them to what it promises.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Parts of fp32 factors ---------------------------------------------------------------------------------------------


@triton.jit
def parts(x, DTYPE: tl.constexpr, CUT: tl.constexpr):
    """Two tiles in DTYPE whose sum is the fp32 x: x rounded, and what is missing (nothing if DTYPE is float32).

    CUT, of bfloat16: digits are cut off instead of rounded, which compiles to packed conversions. The sum then lacks
    the last 8 of x's 24 digits, and else the last 7.
    """
    if CUT:
        high = (x.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)
        low = (x - high).to(DTYPE)
        high = high.to(DTYPE)
    else:
        high = x.to(DTYPE)
        low = (x - high.to(tl.float32)).to(DTYPE)
    return high, low


@triton.jit
def fine_dot(a, b, acc, PRECISION: tl.constexpr, CUT: tl.constexpr = True):
    """acc + a · b of an fp32 a, in two parts as `parts` says unless b is fp32 as well."""
    if b.dtype == tl.float32:
        acc = tl.dot(a, b, acc=acc, input_precision=PRECISION)
    else:
        high, low = parts(a, b.dtype, CUT)
        acc = tl.dot(low, b, acc=tl.dot(high, b, acc=acc))
    return acc


@triton.jit
def dot_fine(a, b, acc, PRECISION: tl.constexpr):
    """acc + a · b of an fp32 b; a is bfloat16 or fp32."""
    if a.dtype == tl.bfloat16:
        high, low = parts(b, tl.bfloat16, True)
        acc = tl.dot(a, low, acc=tl.dot(a, high, acc=acc))
    else:
        acc = tl.dot(a, b, acc=acc, input_precision=PRECISION)
    return acc


@triton.jit
def fine_dot_fine(a, b, acc, SPLIT: tl.constexpr, PRECISION: tl.constexpr):
    """acc + a · b of fp32 tiles, both in two parts if the operands are bfloat16, which is what SPLIT says."""
    if SPLIT:
        a_high, a_low = parts(a, tl.bfloat16, True)
        b_high, b_low = parts(b, tl.bfloat16, True)
        acc = tl.dot(a_high, b_high, acc=acc)
        acc = tl.dot(a_low, b_high, acc=acc)
        acc = tl.dot(a_high, b_low, acc=acc)
    else:
        acc = tl.dot(a, b, acc=acc, input_precision=PRECISION)
    return acc


@triton.jit
def rounded_dot(a, b, acc, PRECISION: tl.constexpr):
    """acc + a · b of which one is an operand and the other in fp32, rounded only where operands are bfloat16."""
    if (a.dtype == tl.bfloat16) or (b.dtype == tl.bfloat16):
        acc = tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16), acc=acc)
    else:
        acc = tl.dot(a.to(tl.float32), b.to(tl.float32), acc=acc, input_precision=PRECISION)
    return acc


@triton.jit
def factor(x, DTYPE: tl.constexpr, PRECISION: tl.constexpr):
    """An fp32 tile as a factor of a product in DTYPE: rounded to nearest where the hardware would cut digits off."""
    if PRECISION == "tf32" and tl.float32 == DTYPE:
        x = ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
    return x.to(DTYPE)


@triton.jit
def dot_factor(a, x, acc, FINE: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr):
    """acc + a · x of an fp32 x as a `factor`, which is multiplied in two parts if FINE."""
    high = factor(x, DTYPE, PRECISION)
    acc = tl.dot(a, high, acc, input_precision=PRECISION)
    if FINE and PRECISION != "ieee":
        acc = tl.dot(a, factor(x - high.to(tl.float32), DTYPE, PRECISION), acc, input_precision=PRECISION)
    return acc


@triton.jit
def inverse_less_identity(p, DTYPE: tl.constexpr, PRECISION: tl.constexpr):
    """(I − P)^-1 − I of a strictly triangular P, whose rows are a power of two, by (I + P)(I + P²)(I + P⁴)…

    Without the identity, whose product with a right-hand side need not be rounded to the operand dtype.
    """
    power = p
    total = p
    for _ in tl.static_range(_doublings(p.shape[0]) - 1):
        factor_ = power.to(DTYPE)
        power = tl.dot(factor_, factor_, input_precision=PRECISION)
        total = total + power + tl.dot(total.to(DTYPE), power.to(DTYPE), input_precision=PRECISION)
    return total


@triton.constexpr_function
def _doublings(rows):
    """How often 1 is doubled to become `rows`, a power of two."""
    return rows.bit_length() - 1


# Units of 16-bit numbers -------------------------------------------------------------------------------------------


@triton.jit
def unit_of(largest, headroom):
    """A unit, and its inverse: a power of two in which numbers up to `largest` ≥ 0 are below 2^(15 − headroom).

    So sums of 2^headroom of them are still in the range of a float16.
    """
    exponent = (largest.to(tl.int32, bitcast=True) >> 23) & 255
    inverse = tl.minimum(tl.maximum(268 - exponent - headroom, 1), 253)
    return ((254 - inverse) << 23).to(tl.float32, bitcast=True), (inverse << 23).to(tl.float32, bitcast=True)


@triton.jit
def unit_in(largest, headroom, DTYPE: tl.constexpr):
    """As `unit_of`, for numbers that are worked with in DTYPE: 1 and 1 unless that is float16."""
    unit, inverse = 1.0, 1.0
    if DTYPE == tl.float16:
        unit, inverse = unit_of(largest, headroom)
    return unit, inverse


@triton.jit
def largest_of(x):
    """The largest magnitude in a tile."""
    return tl.max(tl.max(tl.abs(x), 1), 0)


@triton.jit
def in_units(x, headroom, DTYPE: tl.constexpr):
    """An fp32 tile in DTYPE, divided by its unit, and the unit: 1 unless DTYPE is float16."""
    unit = 1.0
    if DTYPE == tl.float16:
        unit, inverse = unit_of(largest_of(x), headroom)
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


# Outputs and their residuals ---------------------------------------------------------------------------------------


def residual_of(y: Tensor) -> Tensor:
    """Room for the residuals of y: int8 in its shape; float32 has none, and the tensor is empty."""
    return torch.empty_like(y if y.dtype != torch.float32 else y[:0], dtype=torch.int8)


@triton.jit
def fine(y, residual, mask):
    """Outputs and their residuals at these places as one number each, in fp32."""
    DTYPE: tl.constexpr = y.dtype.element_ty
    outputs = tl.load(y, mask=mask, other=0.0).to(tl.float32)
    if DTYPE != tl.float32:
        outputs = _refined(outputs, tl.load(residual, mask=mask, other=0), DTYPE)
    return outputs


@triton.jit
def fine_in_units(y, residual, headroom, mask, WORK: tl.constexpr):
    """Outputs and their residuals at these places as sums of two numbers in WORK each, and the unit of all.

    Residuals do not change the unit, so that no float32 of a tile has to be kept until it is known.
    """
    DTYPE: tl.constexpr = y.dtype.element_ty
    rounded = tl.load(y, mask=mask, other=0.0)
    unit, inverse = unit_in(largest_of(rounded).to(tl.float32), headroom, WORK)
    outputs = rounded.to(tl.float32)
    if DTYPE != tl.float32:
        outputs = _refined(outputs, tl.load(residual, mask=mask, other=0), DTYPE)
    high, low = parts(outputs * inverse, WORK, False)
    return high, low, unit


@triton.jit
def store_fine(y, residual, outputs, mask):
    """Stores outputs, rounded, and their residuals; none of float32."""
    DTYPE: tl.constexpr = y.dtype.element_ty
    rounded = outputs.to(DTYPE)
    tl.store(y, rounded, mask=mask)
    if DTYPE != tl.float32:
        cut = outputs.to(tl.int32, bitcast=True) - rounded.to(tl.float32).to(tl.int32, bitcast=True)
        half: tl.constexpr = 1 << (_residual_shift(DTYPE) - 1)
        cut = tl.minimum(tl.maximum((cut + half) >> _residual_shift(DTYPE), -128), 127)
        tl.store(residual, cut.to(tl.int8), mask=mask)


@triton.jit
def _refined(rounded, residual, DTYPE: tl.constexpr):
    """fp32 numbers that were rounded to DTYPE, with the digits that were cut off."""
    digits = residual.to(tl.int32) << _residual_shift(DTYPE)
    return (rounded.to(tl.int32, bitcast=True) + digits).to(tl.float32, bitcast=True)


@triton.constexpr_function
def _residual_shift(dtype):
    """Binary digits of a float32 below those in a rounded output and its residual."""
    return 8 if dtype == tl.bfloat16 else 5
