"""Loss and bits per byte of what is held out."""

import math

import pytest
import torch

from glm_scale.errors import UserError
from glm_scale.training.evaluation import evaluate
from tests.training.test_engine import Batch


def test_bits_per_byte_counts_valid_labels_and_their_bytes() -> None:
    token_bytes = torch.tensor([0, 1, 3, 5])
    labels = torch.tensor([[1, 2, -100], [3, 0, -100]])
    batch = Batch(torch.zeros_like(labels), labels, torch.zeros_like(labels))
    result = evaluate(lambda _: torch.tensor(6.0), [batch, batch], token_bytes)
    assert (result.tokens, result.bytes) == (8, 18)
    assert result.loss == 1.5
    assert result.bits_per_byte == pytest.approx(12 / math.log(2) / 18)


def test_nothing_to_evaluate_is_an_error() -> None:
    with pytest.raises(UserError, match="no token"):
        evaluate(lambda _: torch.tensor(0.0), [], torch.zeros(4, dtype=torch.int32))
