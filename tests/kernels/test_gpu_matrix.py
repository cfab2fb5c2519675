"""The kernels on a GPU: the matrix of shapes, dtypes, packings and extremes, and tensors beyond 2^31 elements.

`GLM_MATRIX_SHARD=2/8` runs the second eighth of the matrix; `python -m tests.kernels.gpu_matrix` runs it in parallel.
"""

import os

import pytest
import torch

from glm_kernels import recurrence
from tests.kernels.gpu_matrix import run
from tests.kernels.matrix_cases import CASES

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

_shard, _shards = map(int, os.environ.get("GLM_MATRIX_SHARD", "1/1").split("/"))


@pytest.mark.parametrize("case", CASES[_shard - 1 :: _shards], ids=str)
def test_results_and_gradients_are_as_exact_as_the_torch_path_makes_them(case):
    assert run(case).wrong == []


@pytest.mark.parametrize("spelling", ["lattice:2^k", "window:64", "offsets:2^k"])
def test_tensors_beyond_two_to_the_31_elements(spelling):
    """The last document of a row of 2.25e9 numbers is what it is alone."""
    length, last, heads, width = 1_100_000, 1000, 16, 128
    assert length * heads * width > 1 << 31

    def random(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.bfloat16, device="cuda").normal_()

    inputs = [random(1, length, heads, width) for _ in range(3)] + [random(1, length, heads)]
    dy = random(1, length, heads, width)
    starts = torch.zeros(1, length, dtype=torch.int32, device="cuda")
    starts[:, length - last :] = length - last
    for x in inputs:
        x.requires_grad_()
    y, _ = recurrence(*inputs, spelling, document_starts=starts, backend="triton")
    tail = [y[:, -last:].clone(), *(g[:, -last:].clone() for g in torch.autograd.grad(y, inputs, dy))]
    alone = [x[:, -last:].detach().clone().requires_grad_() for x in inputs]
    y, _ = recurrence(*alone, spelling, backend="triton")
    expected = [y, *torch.autograd.grad(y, alone, dy[:, -last:].contiguous())]
    for found, right in zip(tail, expected, strict=True):
        assert (found.double() - right.double()).norm() <= 6e-3 * right.double().norm()
