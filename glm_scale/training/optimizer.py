"""AdamW, its two groups of parameters, how a step is refused, and the guard that stands before a step without ZeRO."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from glm_scale.layers.embedding import is_token_embedding
from glm_scale.parallel.axis import TensorAxis
from glm_scale.parallel.tensor.splitting import split_dimension
from glm_scale.training.config import OptimizerConfig

__all__ = ["GuardedAdamW", "RefusableAdamW", "build_optimizer", "parameter_groups"]

VECTOR = 8
"""Elements of the widest load, 16 bytes of bf16."""


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices, which decay, and everything else, which does not.

    No decay for vectors (norm gains, biases, decay rates: shrinking them changes what a layer computes rather than
    how smooth it is), nor for embedding tables: a row gets a gradient only when its token occurs, but decay at every
    step, so rare tokens would be pulled to zero. A table tied to the output head counts as an embedding.

    DeepSpeed lays the parameters of a group one behind the other. In this order each begins at a multiple of the
    largest power of two in its size, up to 16 bytes of bf16: kernels read them in vectors, and code that was compiled
    for one layer takes for granted that those of the others are aligned as its own are.
    """
    tables = {id(module.weight) for module in model.modules() if is_token_embedding(module)}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    parameters.sort(key=lambda parameter: -math.gcd(parameter.numel(), VECTOR))
    decays = [parameter.ndim >= 2 and id(parameter) not in tables for parameter in parameters]
    groups = (
        ([p for p, decay in zip(parameters, decays, strict=True) if decay], weight_decay),
        ([p for p, decay in zip(parameters, decays, strict=True) if not decay], 0.0),
    )
    return [{"params": members, "weight_decay": decay} for members, decay in groups if members]


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, *, guarded: bool, fused: bool, tensor: TensorAxis | None = None
) -> RefusableAdamW:
    """AdamW over `parameter_groups`; `guarded` adds the clipping and the non-finite check that ZeRO has.

    `tensor`: the ranks over which weights are split.
    """
    groups = parameter_groups(model, config.weight_decay)
    options: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": config.betas,
        "eps": config.eps,
        "fused": fused,
    }
    if guarded:
        return GuardedAdamW(groups, clip=config.clip, tensor=tensor, **options)
    return RefusableAdamW(groups, **options)


def _total_norm(parameters: list[nn.Parameter], tensor: TensorAxis | None) -> Tensor:
    """The norm of all gradients. Of parameters that tensor ranks have parts of, each adds its own."""
    if tensor is None:
        return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    split = [p.grad for p in parameters if p.grad is not None and split_dimension(p) is not None]
    whole = [p.grad for p in parameters if p.grad is not None and split_dimension(p) is None]
    squares = torch.nn.utils.get_total_norm(split).square()
    torch.distributed.all_reduce(squares, group=tensor.group)
    return (squares + torch.nn.utils.get_total_norm(whole).square()).sqrt()


def _never() -> bool:
    return False


class RefusableAdamW(torch.optim.AdamW):
    """AdamW that leaves weights, moments and step counters alone where `refuses()` is true.

    Under ZeRO this is the innermost optimizer. It is asked to step once for every group of parameters, after the global
    gradient norm is known and before a weight has changed: the one place where all stages can still be refused.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], **options: Any) -> None:
        super().__init__(groups, **options)
        self.refuses: Callable[[], bool] = _never

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        return None if self.refuses() else super().step(closure)


class GuardedAdamW(RefusableAdamW):
    """AdamW that clips by the global norm and refuses a step whose gradient is not finite.

    After a step `overflow` says whether it was refused and `_global_grad_norm` the norm before clipping: the two
    attributes DeepSpeed reads from its ZeRO optimizers, so a step without ZeRO looks the same from outside.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, clip: float | None, tensor: TensorAxis | None = None, **options: Any
    ) -> None:
        super().__init__(groups, **options)
        self.tensor = tensor
        self.clip = clip
        self.overflow = False
        self._global_grad_norm: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        gradients = [p.grad for p in parameters]
        norm = _total_norm(parameters, self.tensor)
        self._global_grad_norm = norm
        self.overflow = not bool(torch.isfinite(norm))
        if self.overflow:
            return None
        if self.clip is not None:
            scale = torch.clamp(self.clip / (norm + 1e-6), max=1.0)
            torch._foreach_mul_(gradients, scale)
        return super().step(closure)
