"""What a comparison of mixers comes to, in a sentence or two: which is ahead, at what cost, and if that is resolved.

Only runs that are meant to differ in the mixer alone are taken: finished, of one size of each mixer. After the same
tokens their losses are compared as they are; runs of several budgets also say what each mixer reaches at the same cost.
The spread of seeds decides what is resolved, by Welch's test of the best mixer against each of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean

import numpy as np

from glm_scale.scaling.curves import TrainedRun
from glm_scale.scaling.differences import SAME_PARAMETERS, SAME_TOKENS, alike
from glm_scale.scaling.endpoints import Endpoint, endpoints_of

__all__ = ["verdict"]

_RESOLVED = 0.1

Losses = Mapping[str, Sequence[float]]
"""Of each mixer one for each seed."""


def verdict(runs: Iterable[TrainedRun]) -> str:
    """Empty where there are not two mixers to be compared."""
    ends = endpoints_of(runs)
    by_mixer = {name: [end for end in ends if end.mixer == name] for name in sorted({end.mixer for end in ends})}
    sizes = [[end.parameters for end in own] for own in by_mixer.values()]
    if len(by_mixer) < 2 or not all(alike(own, SAME_PARAMETERS) for own in sizes):
        return ""
    if alike((end.tokens for end in ends), SAME_TOKENS):
        return _after_the_same_tokens(by_mixer)
    return _at_the_same_cost(by_mixer)


def _after_the_same_tokens(by_mixer: Mapping[str, Sequence[Endpoint]]) -> str:
    losses = {name: [end.loss for end in own] for name, own in by_mixer.items()}
    best, *others = _by_loss(losses)
    beside = "; ".join(
        f"{other} {_mean(losses, other) - _mean(losses, best):+.4f}{_cost(by_mixer[best], by_mixer[other])}"
        for other in others
    )
    return f"{best} ends lowest, at {_mean(losses, best):.4f} nats a token; {beside}. {_resolution(losses)}"


def _at_the_same_cost(by_mixer: Mapping[str, Sequence[Endpoint]]) -> str:
    """By FLOPs and by time: at the most that every mixer has spent. Empty where budgets do not overlap."""
    said, resolution = [], ""
    costs: tuple[tuple[str, Callable[[Endpoint], float], Callable[[float], str]], ...] = (
        ("training FLOPs", lambda end: end.flops, lambda amount: f"{amount:.3g}"),
        ("time of training", lambda end: end.seconds or 0.0, lambda amount: f"{amount:,.0f} s"),
    )
    for what, cost, shown in costs:
        amount = min(max(map(cost, own)) for own in by_mixer.values())
        losses = {name: _losses_at(own, cost, amount) for name, own in by_mixer.items()}
        if not all(losses.values()):
            continue
        best, *others = _by_loss(losses)
        beside = ", ".join(f"{other} {_mean(losses, other) - _mean(losses, best):+.4f}" for other in others)
        said.append(f"At equal {what} ({shown(amount)}) {best} is lowest, at {_mean(losses, best):.4f}; {beside}.")
        resolution = resolution or _resolution(losses)
    return " ".join([*said, resolution]) if said else ""


def _losses_at(ends: Sequence[Endpoint], cost: Callable[[Endpoint], float], amount: float) -> list[float]:
    """Of every seed the loss at this cost: on the straight line, of logarithms, between the budgets around it."""
    found = []
    for seed in {end.seed for end in ends}:
        own = sorted((end for end in ends if end.seed == seed), key=cost)
        if not 0 < cost(own[0]) <= amount <= cost(own[-1]):
            return []
        spent = np.log([cost(end) for end in own])
        found.append(float(np.exp(np.interp(np.log(amount), spent, np.log([end.loss for end in own])))))
    return found


def _by_loss(losses: Losses) -> list[str]:
    return sorted(losses, key=lambda name: _mean(losses, name))


def _mean(losses: Losses, name: str) -> float:
    return fmean(losses[name])


def _cost(best: Sequence[Endpoint], other: Sequence[Endpoint]) -> str:
    """Of the other one, in what the best one took."""
    flops = fmean(end.flops for end in other) / fmean(end.flops for end in best)
    if not all(end.seconds for end in (*best, *other)):
        return f" at {flops:.2f}× its FLOPs"
    seconds = fmean(end.seconds or 0.0 for end in other) / fmean(end.seconds or 0.0 for end in best)
    return f" at {flops:.2f}× its FLOPs and {seconds:.2f}× its time"


def _resolution(losses: Losses) -> str:
    if any(len(own) < 2 for own in losses.values()):
        return "Whether that is more than the spread of seeds cannot be told: repeat it with other training.seed"
    from scipy.stats import ttest_ind

    best, *others = _by_loss(losses)
    chances = {other: float(ttest_ind(losses[best], losses[other], equal_var=False).pvalue) for other in others}
    open_ = [name for name, chance in chances.items() if not chance <= _RESOLVED]
    shown = ", ".join(f"{name} p = {chance:.2g}" for name, chance in chances.items())
    if len(open_) == len(others):
        return f"Nothing is resolved beside the spread of seeds ({shown})"
    unresolved = f"; not from {', '.join(open_)}" if open_ else ""
    return f"That is resolved beside the spread of seeds{unresolved} ({shown})"
