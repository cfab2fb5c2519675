"""The kernels on a GPU: the matrix of shapes, dtypes, packings and extremes, and tensors beyond 2^31 elements.

`GLM_MATRIX_SHARD=2/8` runs the second eighth of the matrix; `python -m tests.kernels.gpu_matrix` runs it in parallel.
"""

import os

import pytest
import torch

from tests.kernels.gpu_matrix import beyond_int32, run
from tests.kernels.matrix_cases import CASES

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

_shard, _shards = map(int, os.environ.get("GLM_MATRIX_SHARD", "1/1").split("/"))


@pytest.mark.parametrize("case", CASES[_shard - 1 :: _shards], ids=str)
def test_results_and_gradients_are_as_exact_as_the_torch_path_makes_them(case):
    try:
        outcome = run(case)
    except ValueError as error:
        if "cannot serve this call" not in str(error):
            raise
        pytest.skip(str(error))
    assert outcome.wrong == []


@pytest.mark.parametrize("operator", ["lattice:2^k", "lattice:k^2+1", "window:64", "offsets:2^k", "dense", "ssm"])
def test_tensors_beyond_two_to_the_31_elements(operator):
    """The last of many documents is what it is alone."""
    y_error, *gradient_errors = beyond_int32(operator)
    assert y_error <= 6e-3
    assert max(gradient_errors) <= 1.5e-2
