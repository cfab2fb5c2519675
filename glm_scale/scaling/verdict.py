"""What a comparison of mixers comes to, in a sentence or two: which is ahead, at what cost, and if that is resolved.

Only runs that are meant to differ in the mixer alone are taken: finished, for the same tokens. The spread of seeds
decides what is resolved, by Welch's test of the best mixer against each of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from glm_scale.scaling.curves import TrainedRun
from glm_scale.scaling.differences import SAME_TOKENS

__all__ = ["verdict"]

_RESOLVED = 0.1


@dataclass(frozen=True)
class _Mixer:
    """Of its runs: the final validation losses, the mean of FLOPs, and of seconds (0 if they were not measured)."""

    name: str
    losses: tuple[float, ...]
    flops: float
    seconds: float

    @property
    def loss(self) -> float:
        return fmean(self.losses)


def verdict(runs: Sequence[TrainedRun]) -> str:
    """Empty where there are not two mixers to be compared."""
    final = [
        run for run in runs if run.status == "finished" and not run.provisional and run.validation_loss is not None
    ]
    tokens = [run.tokens for run in final]
    if len({run.mixer for run in final}) < 2 or max(tokens) > min(tokens) * (1 + SAME_TOKENS):
        return ""
    best, *others = sorted((_mixer(name, final) for name in {run.mixer for run in final}), key=lambda mixer: mixer.loss)
    beside = "; ".join(f"{other.name} {other.loss - best.loss:+.4f}{_cost(best, other)}" for other in others)
    return f"{best.name} ends lowest, at {best.loss:.4f} nats a token; {beside}. {_resolution(best, others)}"


def _mixer(name: str, runs: Sequence[TrainedRun]) -> _Mixer:
    own = [run for run in runs if run.mixer == name]
    seconds = [run.seconds for run in own]
    losses = tuple(run.validation_loss for run in own if run.validation_loss is not None)
    return _Mixer(name, losses, fmean(run.flops for run in own), fmean(seconds) if all(seconds) else 0.0)


def _cost(best: _Mixer, other: _Mixer) -> str:
    """Of the other one, in what the best one took."""
    time = f" and {other.seconds / best.seconds:.2f}× its time" if best.seconds and other.seconds else ""
    return f" at {other.flops / best.flops:.2f}× its FLOPs{time}"


def _resolution(best: _Mixer, others: Sequence[_Mixer]) -> str:
    if any(len(mixer.losses) < 2 for mixer in (best, *others)):
        return "Whether that is more than the spread of seeds cannot be told: repeat it with other training.seed"
    from scipy.stats import ttest_ind

    chances = {other.name: float(ttest_ind(best.losses, other.losses, equal_var=False).pvalue) for other in others}
    open_ = [name for name, chance in chances.items() if not chance <= _RESOLVED]
    shown = ", ".join(f"{name} p = {chance:.2g}" for name, chance in chances.items())
    if len(open_) == len(others):
        return f"Nothing is resolved beside the spread of seeds ({shown})"
    unresolved = f"; not from {', '.join(open_)}" if open_ else ""
    return f"That is resolved beside the spread of seeds{unresolved} ({shown})"
