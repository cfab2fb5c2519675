"""Outliers of the loss and the gradient norm: what a step must stay under, and when skipped steps are a divergence."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from glm_scale.training.config import SpikeConfig
from glm_scale.training.engine import Limits, StepResult

__all__ = ["SPIKES", "Divergence", "SpikeWatch", "spike_watch", "upper_limit"]

SPIKES = "spikes"
"""Under this key a checkpoint's state has that of its run's `SpikeWatch`."""

_ROLLBACKS = 3
"""So often a run goes back without having come further in between."""
_NORMAL = 1.4826
"""The standard deviation of a normal distribution in units of its median absolute deviation."""
_FLOOR = 1e-3
"""Of the median. Values that hardly differ do not make a spike of every other one."""


@dataclass(frozen=True)
class Divergence:
    """Why a run cannot go on from where it is; `first` is the earliest step that says so."""

    reason: str
    first: int


class SpikeWatch:
    """The history by which steps are judged. It depends on the results of steps alone, so all ranks have the same."""

    def __init__(self, config: SpikeConfig) -> None:
        self._config = config
        self._losses: deque[float] = deque(maxlen=config.window)
        self._norms: deque[float] = deque(maxlen=config.window)
        self._skips: list[int] = []
        self._rollbacks = 0
        self._furthest = -1

    @property
    def limits(self) -> Limits | None:
        """What the next step must not exceed; None while there are too few steps to tell."""
        if len(self._losses) < self._config.window:
            return None
        return Limits(*(upper_limit(values, self._config.threshold) for values in (self._losses, self._norms)))

    def note(self, step: int, result: StepResult) -> None:
        """Take in a step. Of one that was skipped only the number is kept: a spike must not pass for normal."""
        self._skips = [skip for skip in self._skips if skip > step - self._config.window]
        if result.applied:
            self._losses.append(result.loss)
            self._norms.append(result.grad_norm)
        else:
            self._skips.append(step)

    @property
    def divergence(self) -> Divergence | None:
        """Whether too many steps of the window were skipped."""
        window, limit = self._config.window, self._config.rollback_after
        if len(self._skips) < limit:
            return None
        reason = f"{len(self._skips)} of the last {window} steps skipped (training.spikes.rollback_after = {limit})"
        return Divergence(reason, self._skips[0])

    def may_go_back_to(self, step: int) -> bool:
        """Whether going back to the checkpoint of `step` can lead further than it has led already."""
        return step > self._furthest or self._rollbacks < _ROLLBACKS

    def went_back(self, step: int, state: Mapping[str, Any] | None) -> None:
        """The run is at the checkpoint of `step` again, which holds `state` of this."""
        rollbacks = self._rollbacks + 1 if step <= self._furthest else 1
        furthest = max(self._furthest, step)
        self.restore(state)
        # A rollback answers what was skipped before it. What counts is how often there was one.
        self._skips, self._rollbacks, self._furthest = [], rollbacks, furthest

    def state(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return {
            "losses": list(self._losses),
            "norms": list(self._norms),
            "skips": self._skips,
            "rollbacks": self._rollbacks,
            "furthest": self._furthest,
        }

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """The reverse of `state`; None, from a checkpoint without, is no history."""
        state = state or SpikeWatch(self._config).state()
        for values, saved in ((self._losses, state["losses"]), (self._norms, state["norms"])):
            values.clear()
            values.extend(saved)
        self._skips = list(state["skips"])
        self._rollbacks, self._furthest = state["rollbacks"], state["furthest"]


def spike_watch(config: SpikeConfig | None, state: Mapping[str, Any]) -> SpikeWatch | None:
    """The watch of a run that goes on from a checkpoint with this state; None if steps are not judged."""
    if config is None:
        return None
    watch = SpikeWatch(config)
    watch.restore(state.get(SPIKES))
    return watch


def upper_limit(values: Collection[float], threshold: float) -> float:
    """The value whose robust z-score, (x - median) / (1.4826 · MAD), among `values` is `threshold`.

    The median absolute deviation withstands outliers in up to half of the values (Hampel, JASA 69, 1974).
    """
    median = statistics.median(values)
    deviation = statistics.median(abs(value - median) for value in values)
    return median + threshold * max(_NORMAL * deviation, _FLOOR * abs(median))
