import importlib

import pytest
import torch

from glm_kernels import attention
from tests.kernels.operands import leaves, packed_starts, values_and_gradients
from tests.tolerances import assert_pass_close, rounding

pytestmark = pytest.mark.numeric


def by_definition(q, k, v, window, starts):
    i, j = torch.arange(q.shape[1]).view(-1, 1), torch.arange(q.shape[1])
    reads = (j <= i) & (i - j < (window or q.shape[1])) & (starts.unsqueeze(2) <= j)
    scores = torch.einsum("bihk,bjhk->bhij", q, k) * q.shape[3] ** -0.5
    return torch.einsum("bhij,bjhv->bihv", scores.masked_fill(~reads.unsqueeze(1), -torch.inf).softmax(3), v)


@pytest.mark.parametrize("length", [1, 5, 64, 65, 150])
@pytest.mark.parametrize("window", [None, 1, 3, 64, 100])
@pytest.mark.parametrize("cuts", [0, 4])
def test_equals_the_definition(length, window, cuts):
    q, k, v = inputs = leaves((2, length, 2, 4), (2, length, 2, 4), (2, length, 2, 3))
    starts = packed_starts(2, length, cuts)
    expected = values_and_gradients([by_definition(q, k, v, window, starts)], inputs)
    found = values_and_gradients([attention(*inputs, window=window, document_starts=starts)], inputs)
    assert_pass_close(found, expected, rounding(torch.float64, 2 * length))


def test_a_window_needs_a_row():
    with pytest.raises(ValueError, match="window = 0"):
        attention(*leaves((1, 4, 1, 2), (1, 4, 1, 2), (1, 4, 1, 2)), window=0)


def test_layers_that_share_document_starts_share_their_masks(monkeypatch):
    module = importlib.import_module("glm_kernels.attention.operator")
    monkeypatch.setattr(module, "_compiled", lambda function: function)
    starts = packed_starts(2, 40, 2)

    def mask(starts, window=None):
        return module._block_mask(40, window, starts, starts.device)

    first = mask(starts)
    assert mask(starts) is first
    assert mask(starts, window=8) is not first
    starts[:, 20:] = 20
    assert mask(starts) is not first
    kept = len(module._packed_masks)
    del starts
    assert len(module._packed_masks) == kept - 1
