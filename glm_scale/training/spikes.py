"""Outliers of the loss and the gradient norm: what a step must stay under, and when skipped steps are a divergence."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from glm_scale.checkpoint import SpikeHistory
from glm_scale.training.config import SpikeConfig
from glm_scale.training.engine import Limits, StepResult

__all__ = ["Divergence", "SpikeWatch", "upper_limit"]

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
    """Judges steps by those before. It depends on the results of steps alone, so all ranks judge the same.

    `history`: what the watch of the run has saved.
    """

    def __init__(self, config: SpikeConfig, history: SpikeHistory | None = None) -> None:
        self._config = config
        self._losses: deque[float] = deque(maxlen=config.window)
        self._norms: deque[float] = deque(maxlen=config.window)
        self._skips: list[int] = []
        self._rollbacks, self._furthest = 0, -1
        self._restore(history or SpikeHistory())

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

    def went_back(self, step: int, history: SpikeHistory | None) -> None:
        """The run is at the checkpoint of `step` again, which holds this `history`."""
        rollbacks = self._rollbacks + 1 if step <= self._furthest else 1
        furthest = max(self._furthest, step)
        self._restore(history or SpikeHistory())
        # A rollback answers what was skipped before it. What counts is how often there was one.
        self._skips, self._rollbacks, self._furthest = [], rollbacks, furthest

    def history(self) -> SpikeHistory:
        """Everything, for a checkpoint."""
        return SpikeHistory(
            tuple(self._losses), tuple(self._norms), tuple(self._skips), self._rollbacks, self._furthest
        )

    def _restore(self, history: SpikeHistory) -> None:
        self._losses.clear()
        self._losses.extend(history.losses)
        self._norms.clear()
        self._norms.extend(history.norms)
        self._skips = list(history.skips)
        self._rollbacks, self._furthest = history.rollbacks, history.furthest


def upper_limit(values: Collection[float], threshold: float) -> float:
    """The value whose robust z-score, (x - median) / (1.4826 · MAD), among `values` is `threshold`.

    The median absolute deviation withstands outliers in up to half of the values (Hampel, JASA 69, 1974).
    """
    median = statistics.median(values)
    deviation = statistics.median(abs(value - median) for value in values)
    return median + threshold * max(_NORMAL * deviation, _FLOOR * abs(median))
