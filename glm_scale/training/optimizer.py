"""AdamW with Muon beside it, how a step is refused, and the guard that stands before a step without ZeRO."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from glm_scale.parallel.axis import TensorAxis
from glm_scale.parallel.tensor.splitting import split_dimension
from glm_scale.training.config import OptimizerConfig
from glm_scale.training.groups import parameter_groups
from glm_scale.training.muon import Muon
from glm_scale.training.statistics import StepNorms

__all__ = ["GuardedAdamW", "RefusableAdamW", "build_optimizer"]


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, *, guarded: bool, fused: bool, tensor: TensorAxis | None = None
) -> RefusableAdamW:
    """AdamW over `parameter_groups`; if the kind is Muon its `muon` is yet to be given. `guarded` adds the clipping and
    the non-finite check that ZeRO has.

    `tensor`: the ranks over which weights are split.
    """
    groups = parameter_groups(model, config)
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
    """AdamW that leaves weights, moments and step counters alone where `refuses()` is true. Groups of hidden matrices
    are stepped by `muon`; `norms` watches the steps for which it is armed.

    Under ZeRO this is the innermost optimizer. It is asked to step once for every group of parameters, after the global
    gradient norm is known and before a weight has changed: the one place where all stages can still be refused.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], **options: Any) -> None:
        super().__init__(groups, **options)
        self.refuses: Callable[[], bool] = _never
        self.muon: Muon | None = None
        self.norms: StepNorms | None = None

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        if self.refuses():
            return None
        every = self.param_groups
        masters = [master for group in every for master in group["params"]]
        watched = self.norms if self.norms and self.norms.armed else None
        if watched:
            watched.before(masters)
        loss = self._step(every, closure)
        if watched:
            watched.after(masters)
        return loss

    def _step(self, every: list[dict[str, Any]], closure: Callable[[], float] | None) -> float | None:
        for group in every:
            if group["hidden"] and group["params"]:
                assert self.muon is not None, "hidden matrices need Muon"
                self.muon.step(group, self.state)
        try:
            self.param_groups = [group for group in every if not group["hidden"]]
            return super().step(closure)
        finally:
            self.param_groups = every


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
