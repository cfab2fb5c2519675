"""Cross entropy of logits of which each tensor rank has those of its part of the vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from glm_scale.parallel.axis import TensorAxis
from glm_scale.parallel.tensor.exchange import every_rank

Compiler = Callable[[Callable[..., Any]], Callable[..., Any]]


class _Labels(NamedTuple):
    """Of each row: its label counted in this rank's part of the vocabulary, 0 where it is in none of it; whether it is
    there; and whether the row counts."""

    own: Tensor
    here: Tensor
    counted: Tensor

    @classmethod
    def of(cls, targets: Tensor, counted: Tensor, columns: int, axis: TensorAxis) -> _Labels:
        own = targets - axis.rank * columns
        here = (own >= 0) & (own < columns)
        return cls(torch.where(here, own, 0), here, counted)


def split_cross_entropy(
    logits: Tensor, targets: Tensor, counted: Tensor, axis: TensorAxis, differentiated: bool, compiled: Compiler
) -> tuple[Tensor, Tensor | None]:
    """−log softmax at the targets, fp32 `[rows]`, 0 where a row does not count.

    If it is `differentiated` also its gradient by this rank's logits, in their dtype. logits `[rows, vocab / size]`;
    targets int64 `[rows]` in the whole vocabulary. Each rank sums up its logits, and one exchange of three fp32 numbers
    a row brings the sums of all. compiled: makes one kernel of a function of tensors, where that pays.
    """
    labels = _Labels.of(targets, counted, logits.shape[1], axis)
    sums = every_rank(compiled(_own_sums)(logits, labels), axis)
    losses, largest, total = _whole(sums, counted)
    return losses, compiled(_gradient)(logits, labels, largest, total) if differentiated else None


def split_scores(logits: Tensor, targets: Tensor, axis: TensorAxis) -> Tensor:
    """fp32 `[2, rows]`: log softmax at the targets, and 1 where the target is the first of the largest logits.

    logits `[rows, vocab / size]`; targets int64 `[rows]` in the whole vocabulary, the same on every rank.
    """
    columns, counted = logits.shape[1], torch.ones_like(targets, dtype=torch.bool)
    # A vocabulary is small enough for fp32 to hold every token's number.
    largest_at = (logits.argmax(1) + axis.rank * columns).float()
    own = _own_sums(logits, _Labels.of(targets, counted, columns, axis))
    sums = every_rank(torch.cat([own, largest_at[None]]), axis)
    losses, _, _ = _whole(sums, counted)
    # argmax takes the first rank of equals, which has the first tokens.
    greedy = sums[:, 3].gather(0, sums[:, 0].argmax(0, keepdim=True)).squeeze(0)
    return torch.stack([-losses, (greedy == targets.float()).float()])


def _own_sums(logits: Tensor, labels: _Labels) -> Tensor:
    """fp32 `[3, rows]`: the largest logit, Σ exp(logit − largest), and the label's logit, 0 if it is another rank's."""
    wide = logits.float()
    largest = wide.amax(1)
    total = (wide - largest[:, None]).exp().sum(1)
    predicted = wide.gather(1, labels.own[:, None]).squeeze(1)
    return torch.stack([largest, total, torch.where(labels.here, predicted, 0.0)])


def _whole(sums: Tensor, counted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The losses, the largest logit of the whole vocabulary, and Σ exp(logit − largest), of `sums [ranks, 3, rows]`."""
    largest = sums[:, 0].amax(0)
    total = (sums[:, 1] * (sums[:, 0] - largest).exp()).sum(0)
    losses = total.log() + largest - sums[:, 2].sum(0)
    return losses * counted, largest, total


def _gradient(logits: Tensor, labels: _Labels, largest: Tensor, total: Tensor) -> Tensor:
    softmax = (logits.float() - largest[:, None]).exp() / total[:, None]
    columns = torch.arange(logits.shape[1], device=logits.device)
    predicted = (columns == labels.own[:, None]) & labels.here[:, None]
    return ((softmax - predicted.float()) * labels.counted[:, None]).to(logits.dtype)
