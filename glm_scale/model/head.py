"""The output head: logits, or the loss without ever holding all of them.

The loss multiplies by the vocabulary a few tokens at a time and computes the gradients of those tokens on the spot, so
that neither logits nor their gradients of a whole batch exist at once, and no multiplication is done twice; the
idea of Liger Kernel's fused linear cross entropy (Hsu et al. 2024, arXiv 2410.10989) in plain torch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from glm_scale.layers.projection import Projection
from glm_scale.parallel.axis import TensorAxis
from glm_scale.parallel.tensor.splitting import mark_split
from glm_scale.parallel.tensor.vocabulary import split_cross_entropy, split_scores

Reduction = Literal["sum", "none", "scored"]
"""What becomes of the losses of tokens: summed up or left alone, in the words of torch, or `token_scores`."""

IGNORED = -100
"""The label of a token that does not count."""

CHUNK_LOGITS = 2**24
"""Logits that exist at once on a CPU: 64 MiB in fp32."""

CHUNK_LOGITS_ON_GPU = 2**27
"""On a GPU, 256 MiB in bf16: every chunk reads and writes the gradient of the whole weight."""


class LanguageModelHead(Projection):
    """Hidden states `[B, T, width]` to logits `[B, T, vocab]`, or to a loss if there are labels.

    Over tensor ranks each has an equal part of the vocabulary, and the logits of that part; x has passed
    `parallel.tensor.splitting.entering`.
    """

    hidden = False

    def __init__(self, width: int, vocabulary: int, tensor: TensorAxis | None = None) -> None:
        super().__init__(width, vocabulary if tensor is None else vocabulary // tensor.size)
        self.tensor = tensor
        mark_split(cast(nn.Parameter, self.weight), tensor)

    def forward(self, x: Tensor, labels: Tensor | None = None, reduction: Reduction = "sum") -> Tensor:
        """Logits in the dtype of x; with labels int64 `[B, T]` the sum of −log p(label) in nats, an fp32 scalar.

        With the reduction "none" that of every token, fp32 `[B, T]`, 0 where it does not count; without a gradient.
        With "scored" `token_scores`, fp32 `[2, B, T]`.
        """
        if labels is None:
            return super().forward(x)
        rows, targets = x.flatten(0, -2), labels.flatten()
        if reduction == "scored":
            return token_scores(rows, self.weight, targets, tensor=self.tensor).view(2, *labels.shape)
        if reduction == "none":
            return token_cross_entropy(rows, self.weight, targets, tensor=self.tensor).view_as(labels)
        return summed_cross_entropy(rows, self.weight, targets, tensor=self.tensor)


def summed_cross_entropy(
    x: Tensor, weight: Tensor, labels: Tensor, chunk_rows: int | None = None, tensor: TensorAxis | None = None
) -> Tensor:
    """Σ_rows −log softmax(weight x)[label], fp32, over the tokens whose label is not IGNORED.

    x `[rows, width]`, weight `[vocab, width]`, labels int64 `[rows]`. Softmax and sums are fp32. Differentiable once,
    in x and weight; the gradients are made in the forward pass and held until the backward pass. Over tensor ranks the
    weight is this rank's part of the vocabulary, the loss the whole one, and the gradient of x this rank's part of it.
    """
    loss: Tensor = _SummedCrossEntropy.apply(x, weight, labels, chunk_rows or _chunk_rows(x, weight), tensor)
    return loss


@torch.no_grad()
def token_cross_entropy(
    x: Tensor, weight: Tensor, labels: Tensor, chunk_rows: int | None = None, tensor: TensorAxis | None = None
) -> Tensor:
    """The terms of `summed_cross_entropy`, fp32 `[rows]`, 0 where the label is IGNORED. Not differentiable."""
    count = chunk_rows or _chunk_rows(x, weight)
    chunks = zip(x.split(count), labels.split(count), strict=True)
    return torch.cat([_cross_entropy(rows @ weight.T, targets, tensor, False)[0] for rows, targets in chunks])


@torch.no_grad()
def token_scores(
    x: Tensor, weight: Tensor, labels: Tensor, chunk_rows: int | None = None, tensor: TensorAxis | None = None
) -> Tensor:
    """fp32 `[2, rows]`: log p(label) in nats, and 1 where greedy decoding would take the label; 0 where it is IGNORED.

    Of equal logits decoding takes the first. Only rows that count are multiplied by the vocabulary, so that a few
    labels behind a long context cost next to nothing here. Tensor ranks have to be given the same labels.
    """
    scores = torch.zeros(2, len(labels), dtype=torch.float32, device=x.device)
    counted = (labels != IGNORED).nonzero().squeeze(1)
    for places in counted.split(chunk_rows or _chunk_rows(x, weight)) if len(counted) else ():
        scores[:, places] = _scores(x[places] @ weight.T, labels[places], tensor)
    return scores


def _scores(logits: Tensor, labels: Tensor, tensor: TensorAxis | None) -> Tensor:
    if tensor is not None:
        return split_scores(logits, labels, tensor)
    log_probabilities = logits.log_softmax(-1, dtype=torch.float32).gather(-1, labels[:, None]).squeeze(1)
    return torch.stack([log_probabilities, (logits.argmax(-1) == labels).float()])


def _chunk_rows(x: Tensor, weight: Tensor) -> int:
    return max(1, (CHUNK_LOGITS_ON_GPU if x.is_cuda else CHUNK_LOGITS) // weight.shape[0])


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, labels: Tensor, chunk_rows: int, tensor: TensorAxis | None
    ) -> Tensor:
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        loss = torch.zeros((), dtype=torch.float32, device=x.device)
        grad_x = torch.empty_like(x) if needs_x else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        for begin in range(0, x.shape[0], chunk_rows):
            rows, targets = x[begin : begin + chunk_rows], labels[begin : begin + chunk_rows]
            losses, grad = _cross_entropy(rows @ weight.T, targets, tensor, needs_x or needs_weight)
            loss += losses.sum()
            if grad is None:
                continue
            if grad_x is not None:
                torch.mm(grad, weight, out=grad_x[begin : begin + chunk_rows])
            if grad_weight is not None:
                _add_product(grad_weight, grad.T, rows)
        ctx.save_for_backward(grad_x, grad_weight)
        ctx.weight_dtype = weight.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        grad_x, grad_weight = ctx.saved_tensors
        (scale,) = grad_outputs
        return (
            None if grad_x is None else grad_x * scale.to(grad_x.dtype),
            None if grad_weight is None else (grad_weight * scale).to(ctx.weight_dtype),
            None,
            None,
            None,
        )


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b in fp32; a GPU rounds no product to the precision of a and b on the way."""
    if total.is_cuda and a.dtype != total.dtype:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        total += a @ b


def _cross_entropy(
    logits: Tensor, labels: Tensor, tensor: TensorAxis | None, differentiated: bool
) -> tuple[Tensor, Tensor | None]:
    """−log softmax at the labels, fp32 `[rows]`, 0 where IGNORED.

    If it is `differentiated` also its gradient by the logits, in their dtype.
    """
    counted, targets = labels != IGNORED, labels.clamp(min=0)
    one_pass = logits.is_cuda and differentiated
    if tensor is not None:
        compiled = _compiled if one_pass else _as_written
        return split_cross_entropy(logits, targets, counted, tensor, differentiated, compiled)
    if one_pass:
        return _compiled(_in_one_pass)(logits, targets, counted)
    log_probabilities = logits.log_softmax(-1, dtype=torch.float32)
    losses = -log_probabilities.gather(-1, targets[:, None]).squeeze(1)
    if not differentiated:
        return losses * counted, None
    grad = log_probabilities.exp_()
    grad[torch.arange(len(targets), device=targets.device), targets] -= 1
    return losses * counted, grad.mul_(counted[:, None]).to(logits.dtype)


def _as_written(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


@lru_cache(maxsize=4)
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=False)


def _in_one_pass(logits: Tensor, targets: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """The same for a compiler, which makes one kernel of it that writes nothing but the results."""
    log_probabilities = logits.log_softmax(-1, dtype=torch.float32)
    losses = -log_probabilities.gather(-1, targets[:, None]).squeeze(1)
    columns = torch.arange(logits.shape[1], device=logits.device)
    grad = log_probabilities.exp() - (columns == targets[:, None]).float()
    return losses * counted, (grad * counted[:, None]).to(logits.dtype)
