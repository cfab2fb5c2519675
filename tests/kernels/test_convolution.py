"""The short convolution: its definition, and Triton's kernels, which run in the interpreter without a GPU."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from glm_kernels import short_convolution
from tests.kernels.operands import DEVICE, packed_starts, values_and_gradients
from tests.tolerances import assert_pass_close, error, rounding, unit

pytestmark = pytest.mark.numeric


def operands(batch, length, channels, width, continued, dtype=torch.float64, device="cpu", seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, length, channels), (width, channels), *([(batch, width - 1, channels)] if continued else [])]
    drawn = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return [x.to(device, dtype).requires_grad_() for x in drawn]


def positions_of(batch, length, packed, continued):
    """Of tokens in their documents, of which the first began 2 tokens ago if something is continued."""
    row = torch.arange(length).expand(batch if packed else 1, length)
    positions = row - packed_starts(batch, length, 3) if packed else row.clone()
    return positions + 2 * ((positions == row) & continued)


def by_hand(x, weight, positions, before, silu):
    """In loops."""
    width, y = len(weight), x.detach().clone()
    for b, i, s in itertools.product(range(len(x)), range(x.shape[1]), range(width)):
        if s <= positions[b % len(positions), i]:
            y[b, i] += weight[s] * (x[b, i - s] if s <= i else 0 if before is None else before[b, width - 1 + i - s])
    return F.silu(y) if silu else y


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("continued", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_reads_earlier_tokens_of_the_same_document(packed, continued, silu):
    x, weight, *before = operands(2, 9, 3, 4, continued)
    positions = positions_of(2, 9, packed, continued)
    found = short_convolution(x, weight, positions, *before, silu=silu)
    expected = by_hand(x, weight, positions, before[0] if before else None, silu)
    assert error(found, expected) <= rounding(torch.float64, 2 * 5)


def passes(backend, inputs, positions, silu):
    x, weight, *before = inputs
    y = short_convolution(x, weight, positions.to(x.device), *before, silu=silu, backend=backend)
    return values_and_gradients([y], inputs)


CASES = [
    # batch, length, channels, width, packed, continued, silu
    (2, 65, 70, 4, True, False, True),
    (2, 130, 5, 4, True, True, True),
    (1, 64, 64, 3, False, True, False),
    (2, 63, 6, 2, False, False, False),
    (1, 1, 3, 4, False, True, True),
    (1, 2, 3, 8, False, True, False),
    (3, 20, 4, 1, True, False, True),
]


@pytest.mark.exact
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_equal_the_definition(case, dtype):
    batch, length, channels, width, packed, continued, silu = case
    if dtype == torch.bfloat16 and DEVICE == "cpu":
        pytest.skip("the interpreter has no real bfloat16")
    inputs = operands(batch, length, channels, width, continued, dtype, DEVICE)
    exact = [x.detach().double().cpu().requires_grad_() for x in inputs]
    positions = positions_of(batch, length, packed, continued)
    found, expected = passes("triton", inputs, positions, silu), passes("reference", exact, positions, silu)
    # Sums in float32, over tokens in the gradient of the weights. Rounded: what comes out, and gradients before SiLU.
    bound = rounding(torch.float32, 4 * (width + 4) + batch * length)
    assert_pass_close([x.cpu() for x in found], expected, bound + (4 * unit(dtype) if dtype == torch.bfloat16 else 0))


def test_weights_of_another_dtype():
    x, weight = operands(1, 20, 6, 4, False, torch.float32, DEVICE)
    half = x.detach().to(torch.float16).requires_grad_()
    positions = positions_of(1, 20, False, False)
    y, dx, dweight = passes("triton", [half, weight], positions, True)
    assert (y.dtype, dx.dtype, dweight.dtype) == (torch.float16, torch.float16, torch.float32)
    exact = [z.detach().double().cpu().requires_grad_() for z in (half, weight)]
    expected = passes("reference", exact, positions, True)
    assert_pass_close([y.cpu(), dx.cpu(), dweight.cpu()], expected, 6 * unit(torch.float16))


def test_it_is_a_proper_operator():
    inputs = operands(2, 9, 3, 4, True, torch.float32, DEVICE)
    positions = positions_of(2, 9, True, True).to(DEVICE)
    x, weight, before = inputs
    torch.library.opcheck(
        torch.ops.glm_kernels.short_convolution.default,
        (x, weight, positions, before, True),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"),
    )


def test_what_kernels_do_not_take_is_torchs():
    x, weight = operands(1, 12, 3, 9, False, torch.float32, DEVICE)
    positions = positions_of(1, 12, False, False).to(DEVICE)
    with pytest.raises(ValueError, match="weight has 9 tokens; the most are 8"):
        short_convolution(x, weight, positions, backend="triton")
    expected = short_convolution(x.double(), weight.double(), positions, backend="reference")
    assert error(short_convolution(x, weight, positions), expected) <= rounding(torch.float32, 2 * 9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.ones(2, 3)}, r"x must be a floating tensor \[B, T, D\] .* got torch.float32 of shape \[2, 3\]"),
        ({"weight": torch.ones(4, 5)}, r"weight must be .* \[width ≥ 1, 6\] .* got torch.float32 of shape \[4, 5\]"),
        ({"positions": torch.ones(1, 3)}, r"positions must be int32 or int64 of shape \[2 or 1, 3\] .* torch.float32"),
        ({"positions": torch.ones(3, 3, dtype=torch.int64)}, r"positions .* got torch.int64 of shape \[3, 3\]"),
        ({"before": torch.ones(2, 2, 6)}, r"before must be torch.float32 of shape \[2, 3, 6\] .* shape \[2, 2, 6\]"),
        ({"weight": torch.ones(4, 6, device="meta")}, "weight must be on cpu like x, got meta"),
        ({"backend": "fast"}, "backend"),
    ],
)
def test_wrong_arguments_are_named(changes, message):
    given = {"x": torch.ones(2, 3, 6), "weight": torch.ones(4, 6), "positions": torch.zeros(1, 3, dtype=torch.int64)}
    with pytest.raises(ValueError, match=message):
        short_convolution(**{**given, **changes})
