"""AdamW over a stack of models, each with a learning rate and a gradient norm of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from glm_scale.training.config import OptimizerConfig

__all__ = ["StackedAdamW"]


class StackedAdamW:
    """What `GuardedAdamW` does to one model, done to every row of weights `[M, N]` by itself.

    A row is clipped by its own norm, and one whose gradient is not finite is left alone, so that a model that diverges
    disturbs no other. rates: the M peaks of the learning rate. decays: bool `[N]`, the columns that weight decay acts
    on. compiled: whether torch compiles the step.
    """

    def __init__(
        self, weights: Tensor, rates: Sequence[float], decays: Tensor, config: OptimizerConfig, *, compiled: bool
    ) -> None:
        self.weights = weights
        self._rates = torch.tensor(rates, device=weights.device)[:, None]
        self._decay = config.weight_decay * decays.to(weights)
        self._config = config
        self._moments = torch.zeros_like(weights, requires_grad=False), torch.zeros_like(weights, requires_grad=False)
        self._steps = torch.zeros_like(self._rates)
        self._update: Callable[..., None] = torch.compile(_update, dynamic=False) if compiled else _update

    @torch.no_grad()
    def step(self, fraction: float) -> None:
        """One step at a fraction of the peak rates, by the gradient of the weights, which is gone afterwards."""
        gradient = self.weights.grad
        assert gradient is not None
        rates, (first, second) = fraction * self._rates, self._moments
        self._update(self.weights, gradient, first, second, self._steps, rates, self._decay, self._config)
        self.weights.grad = None


def _update(
    weights: Tensor, gradient: Tensor, first: Tensor, second: Tensor, steps: Tensor, rates: Tensor, decay: Tensor,
    config: OptimizerConfig,
) -> None:  # fmt: skip
    """In place, as in Loshchilov and Hutter, arXiv 1711.05101, and in torch.optim.AdamW."""
    norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
    finite = norm.isfinite()
    scale = torch.ones_like(norm) if config.clip is None else (config.clip / (norm + 1e-6)).clamp(max=1.0)
    gradient = torch.where(finite, scale * gradient, 0.0)
    steps += finite
    counted = steps.clamp(min=1)
    ours, theirs = config.betas
    first.lerp_(gradient, (1 - ours) * finite)
    second.lerp_(gradient.square(), (1 - theirs) * finite)
    rates = rates * finite
    size = (second / (1 - theirs**counted)).sqrt() + config.eps
    weights.mul_(1 - rates * decay).sub_(rates / (1 - ours**counted) * first / size)
