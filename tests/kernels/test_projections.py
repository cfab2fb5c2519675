"""A token's products with weights, and what is computed around them: by Triton as by torch, at once as one by one."""

import pytest
import torch
import torch.nn.functional as F

from glm_kernels import project, project_gated, project_onto
from tests.kernels.operands import DEVICE
from tests.tolerances import assert_close, rounding

BACKENDS = ["torch", "triton"]
SIZES = [(64, (64, 64, 3)), (100, (10, 7)), (16, (5,)), (9000, (6, 4))]
"""Inputs of one, of part of one and of more than one tile; outputs of several weights."""


def operands(inputs, outputs, together):
    generator = torch.Generator().manual_seed(0)
    stacked = torch.randn(sum(outputs), inputs, generator=generator).to(DEVICE)
    weights = stacked.split(list(outputs)) if together else [part.clone() for part in stacked.split(list(outputs))]
    x, norm, bias = (torch.randn(size, generator=generator).to(DEVICE) for size in (inputs, inputs, outputs[-1]))
    return x[None, None], weights, 1 + 0.1 * norm, bias


def exact(x, weight, norm=None, bias=None):
    x = x.double() if norm is None else F.rms_norm(x.double(), norm.shape, norm.double(), 1e-5)
    return F.linear(x, weight.double(), None if bias is None else bias.double())


@pytest.mark.numeric
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_products_with_several_weights(backend, inputs, outputs, together, normed, biased):
    x, weights, norm, bias = operands(inputs, outputs, together)
    norm, bias = norm if normed else None, bias if biased else None
    found = project(x, weights, bias=bias, norm=norm, eps=1e-5, backend=backend)
    for i, (y, weight) in enumerate(zip(found, weights, strict=True)):
        expected = exact(x, weight, norm, bias if i + 1 == len(weights) else None)
        assert_close(y, expected, rounding(torch.float32, 4 * inputs), inputs**0.5)
        assert y.shape == (1, 1, len(weight))


@pytest.mark.numeric
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("inputs", [64, 100, 9000])
def test_gated_products_and_sums_with_a_stream(backend, inputs):
    x, (gate, up), norm, _ = operands(inputs, (11, 11), together=False)
    gated = project_gated(x, gate, up, norm=norm, eps=1e-5, backend=backend)
    expected = F.silu(exact(x, gate, norm)) * exact(x, up, norm)
    assert_close(gated, expected, rounding(torch.float32, 8 * inputs), inputs)
    stream = torch.randn(1, 1, 11).to(DEVICE)
    assert_close(
        project_onto(stream, up, x, backend=backend), stream + exact(x, up), rounding(torch.float32, 4 * inputs),
        inputs**0.5,
    )  # fmt: skip


def test_several_rows_are_products_of_a_library():
    _, weights, norm, bias = operands(16, (6, 5), together=True)
    x = torch.randn(3, 1, 16).to(DEVICE)
    found = project(x, weights, bias=bias, norm=norm, eps=1e-5)
    for y, weight, added in zip(found, weights, (None, bias), strict=True):
        assert_close(y, exact(x, weight, norm, added), rounding(torch.float32, 64), 4.0)
    with pytest.raises(ValueError, match=r"x is \[3, 1, 16\], and more rows than one are a matrix product"):
        project(x, weights, backend="triton")


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="real bf16 and overlapping launches need a GPU")
@pytest.mark.parametrize(("inputs", "outputs"), [(2048, (2048, 2048, 2048, 16)), (5632, (2048,)), (768, (768, 12))])
def test_in_bf16_a_chain_of_products_equals_the_same_one_after_the_other(inputs, outputs):
    """Launches that overlap must not read what is not there yet."""
    x, weights, norm, bias = operands(inputs, outputs, together=True)
    x, norm, bias = (y.bfloat16() for y in (x, norm, bias))
    weights = (torch.cat(list(weights)) / inputs**0.5).bfloat16().split(list(outputs))
    back = torch.randn(inputs, outputs[0], device=DEVICE).bfloat16() / outputs[0] ** 0.5

    def chain(between):
        y = x
        for _ in range(50):
            y = project_onto(y, back, project(y, weights, bias=bias, norm=norm, eps=1e-5)[0])
            between()
        return y

    assert torch.equal(chain(lambda: None), chain(torch.cuda.synchronize))
