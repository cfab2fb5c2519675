"""The Triton kernels of the lifetime recurrence: on CPU their logic in the interpreter, on GPU the real thing."""

import pytest
import torch

from glm_kernels import RecurrenceState, parse_pattern, recurrence
from tests.kernels.operands import live_slots, packed_bounds, packed_starts, random_state
from tests.tolerances import pass_errors, rounding

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def operands(batch: int, length: int, heads: int, key_dim: int, value_dim: int, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, length, heads, width) for width in (key_dim, key_dim, value_dim)] + [(batch, length, heads)]
    return [torch.randn(*shape, generator=generator).to(DEVICE, dtype).requires_grad_() for shape in shapes]


def exact(x):
    return x.detach().double().requires_grad_()


def outcome(backend, inputs, pattern, state, packing):
    """y, the final state and all gradients of a fixed linear function of them."""
    y, final = recurrence(*inputs, pattern, backend=backend, initial_state=state, output_final_state=True, **packing)
    live = live_slots(pattern, final).to(y.device)
    outputs = [y, final.k.where(live, 0), final.y.where(live, 0)]
    generator = torch.Generator().manual_seed(1)
    loss = sum((x.double() * torch.randn(x.shape, generator=generator).to(x.device)).sum() for x in outputs)
    leaves = [*inputs, *(() if state is None else state[:2])]
    return outputs + list(torch.autograd.grad(loss, leaves))


def relative_errors(inputs, pattern, state, packing, backend="triton"):
    precise = None if state is None else RecurrenceState(exact(state.k), exact(state.y), state.position)
    expected = outcome("reference", [exact(x) for x in inputs], pattern, precise, packing)
    found = outcome(backend, inputs, pattern, state, packing)
    return pass_errors(found, expected, outputs=3)


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
    pattern, length = parse_pattern(spelling), 75
    batch = 1 if packing == "cu_seqlens" else 2
    given = {
        "none": {},
        "document_starts": {"document_starts": packed_starts(batch, length, 3).to(DEVICE)},
        "cu_seqlens": {"cu_seqlens": packed_bounds(length, 2).to(DEVICE)},
    }[packing]
    state = None
    if continued:
        made = random_state(pattern, [17, 40, 0][: 3 if packing == "cu_seqlens" else batch], 1, 12, 20)
        k, y = (x.detach().float().to(DEVICE).requires_grad_() for x in made[:2])
        state = RecurrenceState(k, y, made.position.to(DEVICE))
    errors = relative_errors(operands(batch, length, 1, 12, 20, torch.float32), pattern, state, given)
    assert max(errors) <= rounding(torch.float32, 4 * (length + 20))


@pytest.mark.parametrize("length", [1, 15, 16])
def test_lengths_shorter_than_a_segment(length, short_segments):
    errors = relative_errors(operands(1, length, 1, 16, 16, torch.float32), parse_pattern("lattice:2^k"), None, {})
    assert max(errors) <= rounding(torch.float32, 4 * (length + 20))


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter has no real bfloat16")
@pytest.mark.parametrize("spelling", ["window:5", "lattice:2^k"])
@pytest.mark.parametrize("widths", [(128, 128), (80, 100), (256, 64)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_errors_on_a_gpu_are_at_most_twice_those_of_torch(spelling, widths, dtype):
    pattern = parse_pattern(spelling)
    packing = {"document_starts": packed_starts(2, 1000, 5).to(DEVICE)}
    inputs = operands(2, 1000, 2, *widths, dtype)
    of_torch = relative_errors(inputs, pattern, None, packing, backend="torch")
    errors = relative_errors(inputs, pattern, None, packing)
    assert all(a <= 2 * b + rounding(torch.float32, 20) for a, b in zip(errors, of_torch, strict=True))
