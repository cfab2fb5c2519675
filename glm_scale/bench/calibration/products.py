"""Matrix products of projections, the output head with its loss, and the embedding."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from glm_scale.bench.calibration.clock import Clock
from glm_scale.model.head import summed_cross_entropy
from glm_scale.planning.calibration import EmbeddingTime, HeadTime, MatmulTime

__all__ = ["embedding_time", "head_time", "matmul_time", "projections"]


def projections(width: int, hidden: int, heads: int) -> list[tuple[int, int]]:
    """Inputs and outputs of the projections of a model: of a mixer, its gate, and an MLP."""
    return [(width, width), (width, heads), (width, hidden), (hidden, width)]


def matmul_time(clock: Clock, tokens: int, inputs: int, outputs: int) -> MatmulTime:
    """The forward product and the gradients of input and weight, as a compiled block computes them."""
    x, weight, grad = (
        clock.random(tokens, inputs),
        clock.random(outputs, inputs, scale=0.02),
        clock.random(tokens, outputs),
    )
    return MatmulTime(
        tokens=tokens, inputs=inputs, outputs=outputs, forward=clock.seconds(lambda: F.linear(x, weight)),
        input_gradient=clock.seconds(lambda: grad @ weight), weight_gradient=clock.seconds(lambda: grad.T @ x),
    )  # fmt: skip


def head_time(clock: Clock, tokens: int, width: int, vocabulary: int) -> HeadTime:
    """The model's own loss, forward and backward."""
    x, weight = (
        clock.random(tokens, width).requires_grad_(),
        clock.random(vocabulary, width, scale=0.02).requires_grad_(),
    )
    labels = torch.randint(vocabulary, (tokens,), device=clock.device)

    def run() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(summed_cross_entropy(x, weight, labels), (x, weight))

    return HeadTime(tokens=tokens, width=width, vocabulary=vocabulary, seconds=clock.seconds(run))


def embedding_time(clock: Clock, tokens: int, width: int, vocabulary: int) -> EmbeddingTime:
    """A look-up of random tokens and its gradient."""
    table, grad = clock.random(vocabulary, width).requires_grad_(), clock.random(tokens, width)
    numbers = torch.randint(vocabulary, (tokens,), device=clock.device)

    def run() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(F.embedding(numbers, table), table, grad)

    return EmbeddingTime(tokens=tokens, width=width, vocabulary=vocabulary, seconds=clock.seconds(run))
