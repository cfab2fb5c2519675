"""The digits that rounding cuts off outputs are kept, and gradients are the better for it."""

import pytest
import torch
import triton
import triton.language as tl

from glm_kernels import parse_pattern, reference
from glm_kernels.kernel_interface import RecurrenceCall
from glm_kernels.triton_backend.chained import launch
from glm_kernels.triton_backend.common.numerics import fine, store_fine

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter has no real bfloat16.
DTYPES = [torch.float16, torch.bfloat16] if DEVICE == "cuda" else [torch.float16]


@triton.jit
def there_and_back(x, y, residual, whole, N: tl.constexpr):
    n = tl.arange(0, N)
    store_fine(y + n, residual + n, tl.load(x + n), n >= 0)
    tl.debug_barrier()
    tl.store(whole + n, fine(y + n, residual + n, n >= 0))


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

    exact = [x.double().requires_grad_() for x in (q, k, v, d)]
    precise, _ = reference.recurrence(*exact, pattern, scale=0.25)
    expected = torch.autograd.grad(precise, exact, grad.double())

    def error(residual):
        dq = launch.backward(call, y, grad, lse, residual)[0]
        return float((dq.double() - expected[0]).norm() / expected[0].norm())

    assert error(residual) < {torch.float16: 2e-3, torch.bfloat16: 5e-3}[dtype]
    assert error(torch.zeros_like(residual)) > 4 * error(residual)
