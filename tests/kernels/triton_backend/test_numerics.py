"""What the numerics of tiles promise: units, parts, and the digits that rounding cuts off outputs."""

import pytest
import torch
import triton
import triton.language as tl

from glm_kernels import parse_pattern, reference
from glm_kernels.kernel_interface import RecurrenceCall
from glm_kernels.triton_backend.chained import launch
from glm_kernels.triton_backend.common.numerics import fine, fine_dot, store_fine, unit_in, unit_of
from tests.kernels.operands import DEVICE, each

# The interpreter has no real bfloat16.
DTYPES = [torch.float16, torch.bfloat16] if DEVICE == "cuda" else [torch.float16]


@triton.jit
def there_and_back(x, y, residual, whole, N: tl.constexpr):
    n = tl.arange(0, N)
    store_fine(y + n, residual + n, tl.load(x + n), n >= 0)
    tl.debug_barrier()
    tl.store(whole + n, fine(y + n, residual + n, n >= 0))


@triton.jit
def units(largest, headroom, unit, inverse, N: tl.constexpr, HEADROOM: tl.constexpr):
    n = tl.arange(0, N)
    numbers = tl.load(largest + n)
    by_value, _ = unit_of(numbers, headroom)
    found, inverse_found = unit_in(numbers, HEADROOM, tl.float16)
    tl.store(unit + n, tl.where(by_value == found, found, float("nan")))
    tl.store(inverse + n, inverse_found)


@pytest.mark.parametrize("headroom", [0, 1, 17])
def test_a_unit_makes_room_for_sums_of_numbers(headroom):
    powers = 2.0 ** torch.arange(-125, 128, dtype=torch.float64)
    largest = torch.cat([powers, 1.999 * powers, torch.zeros(518 - 2 * len(powers))])[:512].float().to(DEVICE)
    unit, inverse = torch.empty_like(largest), torch.empty_like(largest)
    units[(1,)](largest, headroom, unit, inverse, N=512, HEADROOM=headroom)
    assert torch.equal(unit * inverse, torch.ones_like(unit))
    in_units = largest.double() * inverse
    # Powers of two have an inverse from 2^-126 to 2^126 only.
    assert (in_units[largest.double() < 2.0 ** (141 - headroom)] < 2.0 ** (15 - headroom)).all()
    usual = (largest.double() >= 2.0 ** (-112 - headroom)) & (largest.double() < 2.0 ** (141 - headroom))
    assert (in_units[usual] >= 2.0 ** (14 - headroom)).all()
    assert usual.sum() > 400


@triton.jit
def product_in_parts(a, b, y, CUT: tl.constexpr, N: tl.constexpr):
    at = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    zero = tl.zeros((N, N), tl.float32)
    tl.store(y + at, fine_dot(tl.load(a + at), tl.load(b + at), zero, "ieee", CUT))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float32])
def test_a_factor_in_two_parts_loses_less_than_a_rounded_one(dtype):
    a = torch.randn(16, 16, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    b = torch.eye(16, dtype=dtype, device=DEVICE)
    y = torch.empty_like(a)
    for cut in (False, True) if dtype == torch.bfloat16 else (False,):
        product_in_parts[(1,)](a, b, y, CUT=cut, N=16)
        parts = {torch.float16: 2.0**-21, torch.bfloat16: 2.0**-16 if cut else 2.0**-17, torch.float32: 0.0}[dtype]
        # The smaller part of a number below 2^-3 may be one that float16 holds with fewer digits.
        assert ((y - a).abs() <= a.abs() * parts + (2.0**-25 if dtype == torch.float16 else 0.0)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_residual_holds_the_next_eight_digits(dtype):
    # Powers of two and their neighbours too; nothing so small that float16 itself has fewer digits.
    x = torch.cat(
        [
            torch.randn(1020, generator=torch.Generator().manual_seed(0)),
            torch.tensor([1.0, 1.0 + 2**-20, 1.0 - 2**-20, -2.0 + 2**-12]),
        ]
    ).to(DEVICE)
    x = torch.where(x.abs() < 2**-10, 1.0, x)
    y, residual = torch.empty(1024, dtype=dtype, device=DEVICE), torch.empty(1024, dtype=torch.int8, device=DEVICE)
    whole = torch.empty_like(x)
    there_and_back[(1,)](x, y, residual, whole, N=1024)
    assert torch.equal(y, x.to(dtype))
    # The last of eight digits is that of a step; what lies just beyond the largest one is a step off.
    step = {torch.float16: 2.0**-18, torch.bfloat16: 2.0**-15}[dtype]
    assert ((whole - x).abs() <= x.abs() * step).all()
    assert ((whole - x).abs() <= x.abs() * step / 2).float().mean() > 0.99


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_outputs_that_are_alike_need_residuals(dtype):
    """Where the inputs share a large part, scores' gradients are made of what rounding would have cut off."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, d, grad = (
        torch.randn(1, 90, 1, *width, generator=generator).to(DEVICE, dtype)
        for width in ((16,), (16,), (16,), (), (16,))
    )
    v = (v + 8).to(dtype)
    pattern = parse_pattern("window:40")
    call = RecurrenceCall(q, k, v, d, pattern, 0.25, None, None, None)
    assert launch.why_not(call) is None
    y, lse, residual = launch.forward(call)

    exact = each(lambda x: x.double().requires_grad_(), (q, k, v, d))
    precise, _ = reference.recurrence(*exact, pattern, scale=0.25)
    expected = torch.autograd.grad(precise, exact, grad.double())

    def error(residual):
        dq = launch.backward(call, y, grad, lse, residual)[0]
        return float((dq.double() - expected[0]).norm() / expected[0].norm())

    assert error(residual) < {torch.float16: 2e-3, torch.bfloat16: 5e-3}[dtype]
    assert error(torch.zeros_like(residual)) > 4 * error(residual)
