"""Cross entropy of logits of which each tensor rank has those of its part of the vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist

from glm_scale.parallel.axis import TensorAxis


def split_cross_entropy(logits: Tensor, targets: Tensor, axis: TensorAxis) -> tuple[Tensor, Tensor]:
    """−log softmax at the targets `[rows]`, and its gradient by this rank's logits `[rows, vocab / size]`, in fp32.

    logits `[rows, vocab / size]`, used up if they are fp32; targets int64 `[rows]` in the whole vocabulary. The steps
    are megatron-core's; the sums over ranks take two collectives of numbers per token.
    """
    from megatron.core.tensor_parallel.cross_entropy import VocabParallelCrossEntropy as Steps

    logits, largest = Steps.calculate_logits_max(logits)
    dist.all_reduce(largest, dist.ReduceOp.MAX, axis.group)
    first = axis.rank * logits.shape[1]
    elsewhere, here, predicted, total, exponentials = Steps.calculate_predicted_logits(
        logits, targets, largest, first, first + logits.shape[1]
    )
    sums = torch.stack([predicted, total])
    dist.all_reduce(sums, group=axis.group)
    softmax, loss = Steps.calculate_cross_entropy_loss(exponentials, *sums)
    softmax[torch.arange(len(targets), device=targets.device), here] -= 1.0 - elsewhere.float()
    return loss, softmax
