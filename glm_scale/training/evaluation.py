"""Loss on held-out text, per token and per byte."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from glm_scale.errors import UserError
from glm_scale.training.micro_batch import MicroBatch

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """Summed loss in `nats` over `tokens` predicted tokens, which stand for `bytes` bytes of UTF-8."""

    nats: float
    tokens: int
    bytes: int

    @property
    def loss(self) -> float:
        """Mean loss in nats per token."""
        return self.nats / self.tokens

    @property
    def bits_per_byte(self) -> float:
        """Total loss in bits over the bytes of the text: comparable between tokenizers.

        The end-of-document token costs bits and stands for no byte, so it counts against the model.
        """
        return self.nats / math.log(2) / self.bytes


def evaluate(
    summed_loss: Callable[[MicroBatch], Tensor],
    batches: Iterable[MicroBatch],
    token_bytes: Tensor,
    totals: Callable[[list[float]], list[float]] = list,
) -> Evaluation:
    """Loss over all of `batches`, and over those of other ranks, if `totals` gives the sums of what each has.

    `summed_loss` gives the sum of the token losses of a batch in nats; `token_bytes`, int [vocab], is the bytes that
    each token stands for.

    Raises:
        UserError: there is nothing to predict in the batches.
    """
    nats = torch.zeros((), dtype=torch.float64)
    tokens = characters = 0
    with torch.no_grad():
        for batch in batches:
            nats += summed_loss(batch).double().cpu()
            labels = batch.labels[batch.labels >= 0]
            tokens += labels.numel()
            characters += int(token_bytes[labels].sum())
    all_nats, all_tokens, all_characters = totals([float(nats), tokens, characters])
    if all_tokens == 0 or all_characters == 0:
        raise UserError("the sequences to evaluate on hold no token to predict: all of them were skipped as damaged")
    return Evaluation(all_nats, int(all_tokens), int(all_characters))
