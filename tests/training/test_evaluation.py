"""Loss and bits per byte of what is held out."""

import math

import pytest
import torch

from glm_data import Batch
from glm_scale.errors import UserError
from glm_scale.training.evaluation import evaluate


def test_bits_per_byte_counts_valid_labels_and_their_bytes() -> None:
    token_bytes = torch.tensor([0, 1, 3, 5])
    labels = torch.tensor([[1, 2, -100], [3, 0, -100]])
    batch = Batch(torch.zeros_like(labels), labels, torch.zeros_like(labels), torch.arange(2))
    losses = torch.tensor([[1.0, 2.5, 0.0], [0.5, 2.0, 0.0]])
    result = evaluate(lambda _: losses, [batch, batch], token_bytes)
    assert (result.tokens, result.bytes) == (8, 18)
    assert result.loss == 1.5
    assert result.bits_per_byte == pytest.approx(12 / math.log(2) / 18)


def test_nothing_to_evaluate_is_an_error() -> None:
    with pytest.raises(UserError, match="no token"):
        evaluate(lambda batch: torch.zeros(batch.labels.shape), [], torch.zeros(4, dtype=torch.int32))
