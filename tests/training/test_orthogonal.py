"""Orthogonalised matrices: their singular values, and that nothing depends on how they are put."""

import pytest
import torch

from glm_scale.training.orthogonal import orthogonalized
from tests.tolerances import assert_close, rounding

pytestmark = pytest.mark.numeric

SHAPES = [(12, 12), (8, 40), (40, 8), (1, 7)]


def ill_conditioned(rows: int, columns: int) -> torch.Tensor:
    """Singular values from 1 down to a hundredth."""
    least = min(rows, columns)
    left, right = (torch.linalg.qr(torch.randn(n, least, dtype=torch.float64)).Q for n in (rows, columns))
    return left @ torch.diag(torch.logspace(0, -2, least, dtype=torch.float64)) @ right.T


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_vectors_stay_and_values_come_near_one(shape):
    matrix = ill_conditioned(*shape)
    found = orthogonalized(matrix[None])[0]
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.65
    assert values.max() < 1.25
    # Of the same singular vectors, so that the product with the matrix is symmetric and positive.
    product = found.T @ matrix
    assert_close(product, product.T, 1e-10)
    assert torch.linalg.eigvalsh((product + product.T) / 2).min() > -1e-10


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_less_precision_costs_no_more_than_its_rounding(shape, dtype):
    matrix = ill_conditioned(*shape)
    found = orthogonalized(matrix[None].to(dtype))[0]
    # The matrix itself is rounded, and what fifteen products give; these are sums of at most 40 numbers, in float32.
    bound = rounding(dtype, 16) + rounding(torch.float32, 15 * 40)
    assert_close(found, orthogonalized(matrix[None])[0], bound)


def test_matrices_are_orthogonalised_one_by_one_and_whatever_their_size():
    matrices = torch.randn(3, 6, 10, dtype=torch.float64)
    alone = torch.cat([orthogonalized(1e3 * matrix[None]) for matrix in matrices])
    assert_close(orthogonalized(matrices), alone, 1e-6)
    assert_close(orthogonalized(matrices.mT), alone.mT, 1e-6)


def test_zeros_stay_zeros():
    assert not orthogonalized(torch.zeros(2, 3, 4)).any()
