"""The chained Triton kernels of dense and offset recurrences: their logic in the interpreter, on GPU the real thing."""

import pytest
import torch

from glm_kernels import RecurrenceState, parse_pattern, reference
from glm_kernels.kernel_interface import RecurrenceCall
from glm_kernels.triton_backend.all_rows import launch
from tests.kernels.operands import packed_bounds, packed_starts, random_state
from tests.tolerances import pass_errors, rounding

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def operands(batch, length, heads, key_dim, value_dim, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, length, heads, width) for width in (key_dim, key_dim, value_dim)] + [(batch, length, heads)]
    return [torch.randn(*shape, generator=generator).to(DEVICE, dtype) for shape in shapes]


def exact(x):
    return x.detach().double().requires_grad_()


def upstream(y):
    return torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.device, y.dtype)


def relative_errors(spelling, inputs, state=None, cu_seqlens=None, document_starts=None):
    """Of y, of the gradients of q, k, v and d, and of those of the state's k and y, against float64."""
    pattern, scale = parse_pattern(spelling), 0.3
    call = RecurrenceCall(*inputs, pattern, scale, cu_seqlens, document_starts, state)
    assert launch.why_not(call) is None
    y, kept = launch.forward(call)
    found = [y, *launch.backward(call, y, upstream(y), kept)]

    precise = [exact(x) for x in inputs]
    past = None if state is None else RecurrenceState(exact(state.k), exact(state.y), state.position)
    y, _ = reference.recurrence(
        *precise, pattern, scale=scale, cu_seqlens=cu_seqlens, document_starts=document_starts, initial_state=past
    )
    leaves = precise if past is None else [*precise, past.k, past.y]
    expected = [y.detach(), *torch.autograd.grad(y, leaves, upstream(found[0]).double())]
    return pass_errors(found, expected)


def same(length):
    """What rounding does in float32: sums over rows and over 20 products, in chains of rows, forward and backward."""
    return rounding(torch.float32, 4 * (length + 20))


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
    given = {
        "none": {},
        "document_starts": {"document_starts": packed_starts(batch, length, 2).to(DEVICE)},
        "cu_seqlens": {"cu_seqlens": packed_bounds(length, 2).to(DEVICE)},
    }[packing]
    assert max(relative_errors(spelling, operands(batch, length, 1, 12, 20), **given)) <= same(101)


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
    made = random_state(parse_pattern(spelling), positions, 1, 12, 20)
    k, y = (x.detach().float().to(DEVICE) for x in made[:2])
    state = RecurrenceState(k, y, made.position.to(DEVICE))
    bounds = torch.tensor([0, 17, 17, 20, 61], dtype=torch.int32, device=DEVICE)
    given = {
        "none": {},
        "document_starts": {"document_starts": packed_starts(2, 40, 2).to(DEVICE)},
        "cu_seqlens": {"cu_seqlens": bounds},
    }[packing]
    shape = (1, 61) if packing == "cu_seqlens" else (2, 40)
    assert max(relative_errors(spelling, operands(*shape, 1, 12, 20), state, **given)) <= same(101)


@pytest.mark.parametrize(("length", "heads"), [(1, 1), (15, 2), (16, 1), (64, 1)])
def test_lengths_of_few_chunks(length, heads):
    for spelling in ("dense", "offsets:2^k"):
        assert max(relative_errors(spelling, operands(1, length, heads, 16, 16))) <= same(length)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter has no real bfloat16")
@pytest.mark.parametrize("spelling", ["dense", "offsets:2^k", "offsets:k^2+1"])
@pytest.mark.parametrize("widths", [(128, 128), (80, 100), (256, 64)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_dtype_on_a_gpu(spelling, widths, dtype):
    packing = {"document_starts": packed_starts(2, 1000, 3).to(DEVICE)}
    errors = relative_errors(spelling, operands(2, 1000, 2, *widths, dtype), **packing)
    # As measured on GPUs: what is rounded to a short dtype loses at most its last digit.
    assert max(errors) < {torch.bfloat16: 3.3e-3, torch.float16: 5e-4, torch.float32: 1e-5}[dtype]


def test_what_the_kernels_cannot_serve_is_said():
    inputs = operands(1, 8, 1, 16, 16)
    call = RecurrenceCall(*inputs, parse_pattern("window:3"), 0.3, None, None, None)
    assert launch.why_not(call) == "window:3 is neither dense nor an offset pattern"
