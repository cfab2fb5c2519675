"""Loss on held-out text, per token and per byte."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from glm_data import Batch
from glm_scale.errors import UserError
from glm_scale.tracking.breakdown import Breakdown
from glm_scale.training.token_groups import TokenGroups

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """Summed loss in `nats` over `tokens` predicted tokens, which stand for `bytes` bytes of UTF-8.

    `breakdown`: the same by position and kind of the tokens, if that was asked for.
    """

    nats: float
    tokens: int
    bytes: int
    breakdown: Breakdown | None = None

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
    token_losses: Callable[[Batch], Tensor],
    batches: Iterable[Batch],
    token_bytes: Tensor,
    totals: Callable[[list[float]], list[float]] = list,
    groups: TokenGroups | None = None,
) -> Evaluation:
    """Loss over all of `batches`, and over those of other ranks, if `totals` gives the sums of what each has.

    `token_losses` gives those of a batch in nats, [B, T], 0 where nothing is predicted; `token_bytes`, int [vocab], is
    the bytes that each token stands for. With `groups`, which are used up, the loss is taken apart, too.

    Raises:
        UserError: there is nothing to predict in the batches.
    """
    nats = torch.zeros((), dtype=torch.float64)
    tokens = characters = 0
    with torch.no_grad():
        for batch in batches:
            on_device = token_losses(batch)
            # While the device computes them.
            places = groups.places(batch) if groups else None
            losses = on_device.double().cpu()
            nats += losses.sum()
            counted = batch.labels >= 0
            sizes = torch.where(counted, token_bytes[batch.labels.clamp(min=0)], 0)
            tokens += int(counted.sum())
            characters += int(sizes.sum())
            if groups and places is not None:
                groups.add(places, losses, sizes)
    own = [float(nats), float(tokens), float(characters)]
    all_nats, all_tokens, all_characters, *sums = totals(own + (groups.sums() if groups else []))
    if all_tokens == 0 or all_characters == 0:
        raise UserError("the sequences to evaluate on hold no token to predict: all of them were skipped as damaged")
    breakdown = groups.breakdown(sums) if groups else None
    return Evaluation(all_nats, int(all_tokens), int(all_characters), breakdown)
