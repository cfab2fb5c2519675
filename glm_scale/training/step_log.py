"""Everything a run says about itself while it trains: metrics records, the progress line, remarks."""

import logging
import math
from pathlib import Path
from typing import Any

from glm_scale.checkpoint import Counters
from glm_scale.tracking import MetricsLog
from glm_scale.tracking.breakdown import Breakdown
from glm_scale.tracking.task_results import TaskResults
from glm_scale.training.clock import COMPUTE, STARTING, Clock
from glm_scale.training.engine import StepResult
from glm_scale.training.evaluation import Evaluation
from glm_scale.training.profiling import StepProfiler
from glm_scale.training.progress import Progress, StepView

__all__ = ["SilentStepLog", "StepLog"]

# Weight of the newest step in the smoothed time per step behind the estimated end.
_SMOOTHING = 0.05
_PAUSES = ("evaluation", "checkpoint")

_logger = logging.getLogger(__name__)


class StepLog:
    """Writes to the metrics log and to the progress line, with the times that `clock` has measured.

    `flops_per_token` are those of forward and backward; `peak_flops` the device's FLOP/s, None if not known; `steps`
    the length of the run, for the estimated end; `breakdown` the file for the parts of the last validation loss,
    `tasks` that for the last results of tasks.
    `profiler` is told of every step.
    """

    def __init__(
        self,
        log: MetricsLog,
        progress: Progress,
        clock: Clock,
        *,
        steps: int,
        flops_per_token: float,
        peak_flops: float | None,
        breakdown: Path,
        tasks: Path,
        profiler: StepProfiler | None = None,
    ) -> None:
        self._log = log
        self._breakdown = breakdown
        self._tasks = tasks
        self._progress = progress
        self._clock = clock
        self._steps = steps
        self._flops_per_token = flops_per_token
        self._peak_flops = peak_flops
        self._profiler = profiler
        self._tokens = 0
        self._training_seconds = 0.0
        self._seconds_per_step: float | None = None
        self._measured = 0

    def begin(self, counters: Counters) -> None:
        """Start measuring rates from here."""
        self._tokens = counters.tokens
        self._training_seconds = self._seconds_in_training()

    def step(self, counters: Counters, result: StepResult, learning_rate: float) -> None:
        """Record one optimizer step."""
        rate = self._rate(counters)
        mfu = rate * self._flops_per_token / self._peak_flops if self._peak_flops else None
        values: dict[str, Any] = {
            "loss": result.loss,
            "lr": learning_rate,
            "grad_norm": result.grad_norm,
            "tokens_per_second": rate,
            "overhead_fraction": self._clock.overhead_fraction(),
        }
        if mfu is not None:
            values["mfu"] = mfu
        if result.peak_bytes:
            values["gpu_memory_peak_gib"] = result.peak_bytes / 2**30
        self._log.append("train", **self._position(counters), **values)
        if result.spike:
            self.event(counters, "spike", f"step {counters.step} skipped as a spike: {result.spike}")
        elif not result.applied:
            self.event(
                counters,
                "skipped_step",
                f"step {counters.step} skipped: loss {result.loss}, gradient norm {result.grad_norm} "
                f"({counters.bad_streak} in a row)",
            )
        each = self._seconds_per_step
        eta = None if each is None else (self._steps - counters.step) * each
        self._progress.step(StepView(counters.step, self._steps, result.loss, rate, mfu, eta))
        if self._measured == 1:
            _logger.info("%s", self._first_step())
        if self._profiler and (told := self._profiler.step()):
            self._progress.say(told)

    def validation(self, counters: Counters, evaluation: Evaluation, *, final: bool) -> None:
        """Record the loss on the validation split; `final` marks the one at the end of the budget."""
        self._log.append(
            "validation",
            **self._position(counters),
            loss=evaluation.loss,
            bits_per_byte=evaluation.bits_per_byte,
            **({"final": True} if final else {}),
        )
        if evaluation.breakdown is not None:
            self._keep(evaluation.breakdown, counters)
        self._progress.say(
            f"step {counters.step}: validation loss {evaluation.loss:.4f} nats/token, "
            f"{evaluation.bits_per_byte:.4f} bits/byte"
        )

    def _keep(self, breakdown: Breakdown, counters: Counters) -> None:
        values: dict[str, Any] = breakdown.values()
        self._log.append("breakdown", **self._position(counters), **values)
        try:
            breakdown.write(self._breakdown, counters.step)
        except OSError as error:
            self._progress.say(f"{self._breakdown} cannot be written: {error.strerror}")

    def statistics(self, counters: Counters, values: dict[str, float]) -> None:
        """Record norms, and how mixers weigh."""
        named: dict[str, Any] = values
        self._log.append("statistics", **self._position(counters), **named)

    def tasks(self, counters: Counters, results: TaskResults) -> None:
        """Record what tasks came to."""
        values: dict[str, Any] = results.values()
        self._log.append("task", **self._position(counters), **values)
        try:
            results.write(self._tasks)
        except OSError as error:
            self._progress.say(f"{self._tasks} cannot be written: {error.strerror}")
        told = (
            f"{task} {metric} {value:.3f}"
            for task, result in results.tasks.items()
            for metric, value in list(result.metrics.items())[:1]
        )
        self._progress.say(f"step {counters.step}: {', '.join(told)}")

    def event(self, counters: Counters, event: str, message: str, **values: Any) -> None:
        """Record that something out of the ordinary happened, and tell the user."""
        self._log.append("event", **self._position(counters), event=event, message=message, **values)
        self._progress.say(message)

    def rolled_back(self, counters: Counters, message: str, **values: Any) -> None:
        """Record that the run is at `counters` again: what was measured after them is no part of it any more."""
        self._log.truncate(counters.step)
        self.event(counters, "rolled_back", message, **values)
        self.begin(counters)

    def say(self, message: str) -> None:
        """Tell the user something."""
        self._progress.say(message)

    def time_spent(self) -> str:
        """Where the time of this process went, in one line."""
        seconds = self._clock.seconds()
        training = sum(value for phase, value in seconds.items() if phase not in ("evaluation", *STARTING))
        parts = ", ".join(f"{phase.replace('_', '+')} {value:.1f}" for phase, value in seconds.items())
        return (
            f"seconds: {parts}; {self._clock.overhead_fraction():.1%} of {training:.1f} s of training "
            f"outside {' and '.join(sorted(phase.replace('_', '+') for phase in COMPUTE))}"
        )

    def _first_step(self) -> str:
        seconds = self._clock.seconds()
        parts = {name: seconds[name] for name in STARTING if name in seconds}
        total = sum(seconds.values())
        named = ", ".join(f"{name} {value:.1f}" for name, value in parts.items())
        return f"first step after {total:.1f} s: {named}, its own {total - sum(parts.values()):.1f}"

    def _position(self, counters: Counters) -> dict[str, Any]:
        flops = counters.tokens * self._flops_per_token
        return {"step": counters.step, "tokens": counters.tokens, "flops": flops}

    def _rate(self, counters: Counters) -> float:
        """Tokens per second of the latest step, evaluation and checkpoints left out."""
        now = self._seconds_in_training()
        seconds, tokens = now - self._training_seconds, counters.tokens - self._tokens
        self._training_seconds, self._tokens = now, counters.tokens
        self._measured += 1
        # The first step compiles and allocates; it says nothing of the others.
        if count := self._measured - 1:
            before = self._seconds_per_step or 0.0
            self._seconds_per_step = before + max(_SMOOTHING, 1 / count) * (seconds - before)
        return tokens / seconds if seconds > 0 else math.nan

    def _seconds_in_training(self) -> float:
        seconds = self._clock.seconds()
        return sum(seconds.values()) - sum(seconds.get(phase, 0.0) for phase in _PAUSES)


class SilentStepLog(StepLog):
    """The step log of ranks that leave it to the first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def begin(self, counters: Counters) -> None:
        pass

    def step(self, counters: Counters, result: StepResult, learning_rate: float) -> None:
        pass

    def validation(self, counters: Counters, evaluation: Evaluation, *, final: bool) -> None:
        pass

    def tasks(self, counters: Counters, results: TaskResults) -> None:
        pass

    def statistics(self, counters: Counters, values: dict[str, float]) -> None:
        pass

    def event(self, counters: Counters, event: str, message: str, **values: Any) -> None:
        pass

    def rolled_back(self, counters: Counters, message: str, **values: Any) -> None:
        pass

    def say(self, message: str) -> None:
        pass
