"""What a comparison of mixers comes to, in a sentence or two: which is ahead, at what cost, and if that is resolved.

Only runs that are meant to differ in the mixer alone are taken: finished, of one size of each mixer. After the same
tokens their losses are compared as they are; runs of several budgets also say what each mixer reaches at the same cost.
The spread of seeds decides what is resolved, by Welch's test of the best mixer against each of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

import numpy as np

from glm_scale.scaling.curves import TrainedRun
from glm_scale.scaling.differences import SAME_PARAMETERS, SAME_TOKENS

__all__ = ["verdict"]

_RESOLVED = 0.1

Losses = Mapping[str, Sequence[float]]
"""Of each mixer one for each seed."""


def verdict(runs: Sequence[TrainedRun]) -> str:
    """Empty where there are not two mixers to be compared."""
    final = [
        run for run in runs if run.status == "finished" and not run.provisional and run.validation_loss is not None
    ]
    by_mixer = {name: [run for run in final if run.mixer == name] for name in sorted({run.mixer for run in final})}
    if len(by_mixer) < 2 or not all(map(_of_one_size, by_mixer.values())):
        return ""
    if _same([run.tokens for run in final], SAME_TOKENS):
        return _after_the_same_tokens(by_mixer)
    return _at_the_same_cost(by_mixer)


def _after_the_same_tokens(by_mixer: Mapping[str, Sequence[TrainedRun]]) -> str:
    losses = {name: [_loss(run) for run in own] for name, own in by_mixer.items()}
    best, *others = _by_loss(losses)
    beside = "; ".join(
        f"{other} {_mean(losses, other) - _mean(losses, best):+.4f}{_cost(by_mixer[best], by_mixer[other])}"
        for other in others
    )
    return f"{best} ends lowest, at {_mean(losses, best):.4f} nats a token; {beside}. {_resolution(losses)}"


def _at_the_same_cost(by_mixer: Mapping[str, Sequence[TrainedRun]]) -> str:
    """By FLOPs and by time: at the most that every mixer has spent. Empty where budgets do not overlap."""
    said, resolution = [], ""
    costs: tuple[tuple[str, Callable[[TrainedRun], float], Callable[[float], str]], ...] = (
        ("training FLOPs", lambda run: run.flops, lambda amount: f"{amount:.3g}"),
        ("time of training", lambda run: run.seconds, lambda amount: f"{amount:,.0f} s"),
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


def _losses_at(runs: Sequence[TrainedRun], cost: Callable[[TrainedRun], float], amount: float) -> list[float]:
    """Of every seed the loss at this cost: on the straight line, of logarithms, between the budgets around it."""
    found = []
    for seed in {_seed(run) for run in runs}:
        own = sorted((run for run in runs if _seed(run) == seed), key=cost)
        if not 0 < cost(own[0]) <= amount <= cost(own[-1]):
            return []
        spent = np.log([cost(run) for run in own])
        found.append(float(np.exp(np.interp(np.log(amount), spent, np.log([_loss(run) for run in own])))))
    return found


def _of_one_size(runs: Sequence[TrainedRun]) -> bool:
    return _same([run.summary.non_embedding_parameters for run in runs], SAME_PARAMETERS)


def _same(values: Sequence[float], tolerance: float) -> bool:
    return max(values) <= min(values) * (1 + tolerance)


def _seed(run: TrainedRun) -> object:
    training = run.config.get("training")
    return training.get("seed") if isinstance(training, dict) else None


def _loss(run: TrainedRun) -> float:
    assert run.validation_loss is not None
    return run.validation_loss


def _by_loss(losses: Losses) -> list[str]:
    return sorted(losses, key=lambda name: _mean(losses, name))


def _mean(losses: Losses, name: str) -> float:
    return fmean(losses[name])


def _cost(best: Sequence[TrainedRun], other: Sequence[TrainedRun]) -> str:
    """Of the other one, in what the best one took."""
    flops = fmean(run.flops for run in other) / fmean(run.flops for run in best)
    if not all(run.seconds for run in (*best, *other)):
        return f" at {flops:.2f}× its FLOPs"
    seconds = fmean(run.seconds for run in other) / fmean(run.seconds for run in best)
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
