"""Triton's kernels for few live tokens: on CPU their logic in the interpreter, on GPU the real thing."""

import pytest
import torch

from glm_kernels import parse_pattern
from tests.kernels.exactness import backend_errors, same
from tests.kernels.operands import DEVICE, kernel_state, operands, packing_of
from tests.tolerances import rounding


@pytest.mark.parametrize(
    ("spelling", "packing", "continued"),
    [
        ("lattice:2^k", "none", False),
        ("lattice:2^k", "document_starts", True),
        ("lattice:2^k", "cu_seqlens", True),
        ("window:5", "document_starts", False),
        ("window:5", "none", True),
        ("lattice:k^2+1", "cu_seqlens", False),
        ("lattice:k^2+1", "none", True),
    ],
)
def test_float32_equals_the_reference(spelling, packing, continued, short_segments):
    length = 75
    batch = 1 if packing == "cu_seqlens" else 2
    given = packing_of(packing, batch, length, 2 if packing == "cu_seqlens" else 3, device=DEVICE)
    positions = [17, 40, 0][: 3 if packing == "cu_seqlens" else batch]
    state = kernel_state(parse_pattern(spelling), positions) if continued else None
    inputs = operands(batch, length, 1, 12, 20, dtype=torch.float32, device=DEVICE)
    assert max(backend_errors("triton", inputs, spelling, state, **given)) <= same(length)


@pytest.mark.parametrize("length", [1, 15, 16])
def test_lengths_shorter_than_a_segment(length, short_segments):
    inputs = operands(1, length, 1, 16, 16, dtype=torch.float32, device=DEVICE)
    assert max(backend_errors("triton", inputs, "lattice:2^k")) <= same(length)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter has no real bfloat16")
@pytest.mark.parametrize("spelling", ["window:5", "lattice:2^k"])
@pytest.mark.parametrize("widths", [(128, 128), (80, 100), (256, 64)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_errors_on_a_gpu_are_at_most_twice_those_of_torch(spelling, widths, dtype):
    packing = packing_of("document_starts", 2, 1000, 5, device=DEVICE)
    inputs = operands(2, 1000, 2, *widths, dtype=dtype, device=DEVICE)
    of_torch = backend_errors("torch", inputs, spelling, **packing)
    errors = backend_errors("triton", inputs, spelling, **packing)
    assert all(a <= 2 * b + rounding(torch.float32, 20) for a, b in zip(errors, of_torch, strict=True))
