"""Triton's kernels that keep every token live: on CPU their logic in the interpreter, on GPU the real thing."""

import pytest
import torch

from glm_kernels import parse_pattern
from glm_kernels.kernel_interface import RecurrenceCall
from glm_kernels.triton_backend.all_rows import launch
from tests.kernels.exactness import kernel_errors, same
from tests.kernels.operands import DEVICE, kernel_state, operands, packed_starts, packing_of


def errors(spelling, shape, state=None, dtype=torch.float32, **packing):
    """Of the kernels on random operands of shape [B, T, H, K, V]."""
    return kernel_errors(launch, operands(*shape, dtype=dtype, device=DEVICE), spelling, state, scale=0.3, **packing)


@pytest.mark.parametrize(
    ("spelling", "packing"),
    [
        ("dense", "none"), ("dense", "document_starts"), ("dense", "cu_seqlens"),
        ("offsets:2^k", "none"), ("offsets:2^k", "document_starts"),
        ("offsets:k^2+1", "cu_seqlens"), ("offsets:3*k+2", "none"), ("offsets:40*k+35", "document_starts"),
    ],
)  # fmt: skip
def test_float32_equals_the_reference(spelling, packing):
    length, batch = 101, 2 if packing == "document_starts" else 1
    given = packing_of(packing, batch, length, 2, device=DEVICE)
    assert max(errors(spelling, (batch, length, 1, 12, 20), **given)) <= same(101)


@pytest.mark.parametrize(
    ("spelling", "packing", "positions"),
    [
        ("dense", "document_starts", [21, 0]),
        ("offsets:k^2+1", "none", [21, 0]),
        # Documents of cu_seqlens: one without rows among them, and one that nothing went before.
        ("dense", "cu_seqlens", [21, 0, 3, 16]),
        ("offsets:2^k", "cu_seqlens", [40, 5, 0, 1]),
    ],
)
def test_continues_an_initial_state(spelling, packing, positions):
    state = kernel_state(parse_pattern(spelling), positions)
    bounds = torch.tensor([0, 17, 17, 20, 61], dtype=torch.int32, device=DEVICE)
    given = {
        "none": {},
        "document_starts": {"document_starts": packed_starts(2, 40, 2).to(DEVICE)},
        "cu_seqlens": {"cu_seqlens": bounds},
    }[packing]
    shape = (1, 61) if packing == "cu_seqlens" else (2, 40)
    assert max(errors(spelling, (*shape, 1, 12, 20), state, **given)) <= same(101)


@pytest.mark.parametrize(("length", "heads"), [(1, 1), (15, 2), (16, 1), (64, 1)])
def test_lengths_of_few_chunks(length, heads):
    for spelling in ("dense", "offsets:2^k"):
        assert max(errors(spelling, (1, length, heads, 16, 16))) <= same(length)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter has no real bfloat16")
@pytest.mark.parametrize("spelling", ["dense", "offsets:2^k", "offsets:k^2+1"])
@pytest.mark.parametrize("widths", [(128, 128), (80, 100), (256, 64)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_dtype_on_a_gpu(spelling, widths, dtype):
    packing = packing_of("document_starts", 2, 1000, 3, device=DEVICE)
    found = errors(spelling, (2, 1000, 2, *widths), dtype=dtype, **packing)
    # As measured on GPUs: what is rounded to a short dtype loses at most its last digit.
    assert max(found) < {torch.bfloat16: 3.3e-3, torch.float16: 5e-4, torch.float32: 1e-5}[dtype]


def test_what_the_kernels_cannot_serve_is_said():
    inputs = operands(1, 8, 1, 16, 16, dtype=torch.float32, device=DEVICE)
    call = RecurrenceCall(*inputs, parse_pattern("window:3"), 0.3, None, None, None)
    assert launch.why_not(call) == "window:3 is neither dense nor an offset pattern"
