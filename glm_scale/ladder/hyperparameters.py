"""What a size and a budget of tokens say about batch, learning rate and warm-up.

Batch and learning rate follow the fits of Li et al. 2025 (arXiv 2503.04715, "Step Law") to 3,700 transformers of 60
million to a billion parameters; models far smaller are an extrapolation, which a grid of rates checks. The warm-up has
as many tokens as the model has parameters (Porian et al. 2024, arXiv 2406.19146, who found that a longer one spoils
small models).
"""

from __future__ import annotations

import math

__all__ = ["batch_tokens", "learning_rate", "micro_batch", "warmup_tokens"]

_LARGEST_RATE = 0.02
_AT_ONCE = 32_768
"""Tokens of a forward pass."""


def learning_rate(parameters: float, tokens: float) -> float:
    """The peak, of so many parameters outside the embeddings trained on so many tokens."""
    return min(1.79 * parameters**-0.713 * tokens**0.307, _LARGEST_RATE)


def batch_tokens(tokens: float, sequence_length: int) -> int:
    """Of an optimizer step: the power of two of sequences whose tokens come closest to the optimum for a budget."""
    sequences = 0.58 * tokens**0.571 / sequence_length
    return sequence_length * 2 ** max(0, round(_log2(sequences)))


def warmup_tokens(parameters: float, least_tokens: float, batch: int) -> int:
    """Whole batches, at most a tenth of the smallest budget."""
    return max(1, round(min(parameters, least_tokens / 10) / batch)) * batch


def micro_batch(batch: int, sequence_length: int) -> int:
    """Sequences of a forward pass: a power of two."""
    sequences = batch // sequence_length
    largest = max(1, _AT_ONCE // sequence_length)
    return min(sequences & -sequences, 2 ** int(_log2(largest)))


def _log2(value: float) -> float:
    return math.log2(max(value, 1.0))
