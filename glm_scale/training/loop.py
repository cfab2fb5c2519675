"""The training loop. What a run does is here, top to bottom; how each part does it is in the components it calls."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from glm_data import Batch
from glm_scale.errors import UserError
from glm_scale.training.checkpoint import Saver
from glm_scale.training.checkpoint.retention import VALIDATION_LOSS
from glm_scale.training.clock import Clock
from glm_scale.training.config import TrainingConfig
from glm_scale.training.counters import Counters
from glm_scale.training.engine import Engine
from glm_scale.training.journal import Journal
from glm_scale.training.schedule import learning_rate
from glm_scale.training.signals import StopRequest
from glm_scale.training.validator import Validator

__all__ = ["DivergenceError", "Trainer"]


class DivergenceError(UserError):
    """Training cannot go on; the message says why and what to try."""

    exit_code = 1


class Trainer:
    """One run from `counters` to the end of its budget.

    `steps` yields this rank's micro-batches of one step after the other. `stop` is looked at between steps. `rows_of`
    counts the rows of a step on all ranks. `alive` is told what the run comes to.
    """

    def __init__(
        self,
        config: TrainingConfig,
        engine: Engine,
        steps: Iterator[Sequence[Batch]],
        validator: Validator,
        saver: Saver,
        journal: Journal,
        clock: Clock,
        stop: StopRequest,
        counters: Counters,
        rows_of: Callable[[Sequence[Batch]], int],
        alive: Callable[[int | str], None],
    ) -> None:
        self.config = config
        self.engine = engine
        self.steps = steps
        self.validator = validator
        self.saver = saver
        self.journal = journal
        self.clock = clock
        self.stop = stop
        self.counters = counters
        self.rows_of = rows_of
        self.remarks: dict[str, Any] = {}
        self.alive = alive

    def train(self) -> Literal["finished", "killed"]:
        """Train until the budget is spent or `stop` is set; either way the last step is on disk afterwards.

        At least one step is made: who is stopped and started again all the time comes to the end, too.
        """
        self.journal.begin(self.counters)
        while not self.finished:
            self.alive(self.counters.step)
            with self.clock.phase("data"):
                batches = next(self.steps)
            rate = self.learning_rate()
            result = self.engine.step(batches, rate, self.clock)
            with self.clock.phase("logging"):
                self.remarks = {}
                self.counters = self.counters.after(self.rows_of(batches), self.config.batch_tokens, result)
                self.journal.step(self.counters, result, rate)
            self.stop_if_diverged()
            if not self.finished and self.validator.due(self.counters.step):
                self.evaluate()
            if not self.finished and self.saver.due(self.counters.step):
                self.save()
            self.report_failed_save()
            if self.stop:
                break
        if self.finished:
            self.evaluate(final=True)
        self.save()
        self.saver.finish()
        return "finished" if self.finished else "killed"

    @property
    def finished(self) -> bool:
        return self.counters.tokens >= self.config.tokens

    def learning_rate(self) -> float:
        tokens = self.counters.tokens + self.config.batch_tokens
        return learning_rate(self.config.schedule, self.config.optimizer.learning_rate, tokens, self.config.tokens)

    def evaluate(self, final: bool = False) -> None:
        self.alive("evaluation")
        with self.clock.phase("evaluation"):
            evaluation = self.validator.evaluate(self.engine)
            self.remarks = {VALIDATION_LOSS: evaluation.loss}
            self.journal.validation(self.counters, evaluation, final=final)

    def save(self) -> None:
        self.alive("checkpoint")
        with self.clock.phase("checkpoint"):
            self.saver.save(self.counters, self.remarks)

    def report_failed_save(self) -> None:
        """A checkpoint that could not be written does not end the run: the next one may be."""
        if failure := self.saver.failure():
            self.journal.event(self.counters, "checkpoint_failed", f"no checkpoint: {failure}")

    def stop_if_diverged(self) -> None:
        if self.counters.bad_streak < self.config.bad_step_limit:
            return
        message = (
            f"stopped after {self.counters.bad_streak} consecutive steps with a non-finite loss or gradient "
            f"(training.bad_step_limit = {self.config.bad_step_limit}); the weights are those of step "
            f"{self.counters.step - self.counters.bad_streak}. A lower training.optimizer.learning_rate or a longer "
            "training.schedule.warmup_tokens usually helps"
        )
        self.journal.event(self.counters, "diverged", message)
        raise DivergenceError(message)
