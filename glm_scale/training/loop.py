"""The training loop. What a run does is here, top to bottom; how each part does it is in the components it calls."""

import dataclasses
from dataclasses import dataclass
from typing import Literal, NoReturn, Protocol

from glm_scale.checkpoint import Checkpoint, Counters
from glm_scale.errors import UserError
from glm_scale.tracking.task_results import TaskResults
from glm_scale.training.config import TrainingConfig
from glm_scale.training.engine import Engine
from glm_scale.training.oversight import Oversight
from glm_scale.training.saver import Saver
from glm_scale.training.schedule import learning_rate
from glm_scale.training.spikes import Divergence, SpikeWatch
from glm_scale.training.step_log import StepLog
from glm_scale.training.steps import StepData
from glm_scale.training.validator import Validator

__all__ = ["DivergenceError", "Tasks", "Trainer"]


class Tasks(Protocol):
    """What is measured beside the loss, by all ranks together; rank 0 has the results, if there are any."""

    def due(self, step: int) -> bool: ...
    def measure(self, engine: Engine, step: int) -> TaskResults | None: ...


class DivergenceError(UserError):
    """Training cannot go on; the message says why and what to try."""

    exit_code = 1


@dataclass
class Trainer:
    """One run from `counters` to the end of its budget.

    `validator` is None where nothing is held out, `tasks` where none are asked for. `spikes` judges
    steps by those before, if they are judged.
    """

    config: TrainingConfig
    engine: Engine
    data: StepData
    validator: Validator | None
    tasks: Tasks | None
    saver: Saver
    spikes: SpikeWatch | None
    step_log: StepLog
    oversight: Oversight
    counters: Counters

    def __post_init__(self) -> None:
        self.clock, self.heartbeat = self.oversight.clock, self.oversight.heartbeat
        self.validation_loss: float | None = None

    def train(self) -> Literal["finished", "stopped"]:
        """Train until the budget is spent or somebody asks to stop; either way the last step is on disk afterwards.

        At least one step is made: who is stopped and started again all the time comes to the end, too.
        """
        self.data.start(self.counters.samples)
        self.step_log.begin(self.counters)
        while not self.finished:
            self.heartbeat(self.counters.step)
            with self.clock.phase("data"):
                batches = self.data.next()
            rate = self.learning_rate()
            limits = self.spikes.limits if self.spikes else None
            watched = self.statistics_due(self.counters.step + 1)
            result = self.engine.step(batches, rate, self.clock, limits, self.data.prepare, watched)
            with self.clock.phase("logging"):
                self.validation_loss = None
                self.counters = self.counters.after(
                    self.data.samples(batches),
                    self.config.batch_tokens,
                    applied=result.applied,
                    spike=bool(result.spike),
                )
                self.step_log.step(self.counters, result, rate)
                if self.spikes:
                    self.spikes.note(self.counters.step, result)
            if watched and result.applied:
                with self.clock.phase("evaluation"):
                    self.step_log.statistics(self.counters, self.engine.statistics(batches[0]))
            if self.rolled_back_after_divergence():
                continue
            if not self.finished and self.validator and self.validator.due(self.counters.step):
                self.evaluate(self.validator)
            if not self.finished and self.tasks and self.tasks.due(self.counters.step):
                self.measure(self.tasks)
            if not self.finished and self.saver.due(self.counters.step):
                self.save()
            self.report_failed_save()
            if self.oversight.stop:
                break
        if self.finished and self.validator:
            self.evaluate(self.validator, final=True)
        if self.finished and self.tasks:
            self.measure(self.tasks)
        self.save()
        self.saver.finish()
        return "finished" if self.finished else "stopped"

    @property
    def finished(self) -> bool:
        """Whether the budget is spent."""
        return self.counters.tokens >= self.config.tokens

    def statistics_due(self, step: int) -> bool:
        """Whether a step is to be looked at closely."""
        return self.config.statistics_every is not None and step % self.config.statistics_every == 0

    def learning_rate(self) -> float:
        """Of the next step."""
        tokens = self.counters.tokens + self.config.batch_tokens
        return learning_rate(self.config.schedule, self.config.optimizer.learning_rate, tokens, self.config.tokens)

    def evaluate(self, validator: Validator, final: bool = False) -> None:
        """Measure the loss on held-out text and log it."""
        self.heartbeat("evaluation")
        with self.clock.phase("evaluation"):
            evaluation = validator.evaluate(self.engine, final)
            self.validation_loss = evaluation.loss
            self.step_log.validation(self.counters, evaluation, final=final)

    def measure(self, tasks: Tasks) -> None:
        """Measure the tasks and log what they come to."""
        self.heartbeat("tasks")
        with self.clock.phase("evaluation"):
            results = tasks.measure(self.engine, self.counters.step)
            if results is not None:
                self.step_log.tasks(self.counters, results)

    def save(self) -> None:
        """Begin to write a checkpoint, once the one before is done."""
        self.heartbeat("checkpoint")
        with self.clock.phase("checkpoint"):
            self.saver.wait()
        # Before the next save, whose success would not make up for it in silence.
        self.report_failed_save()
        with self.clock.phase("checkpoint"):
            self.saver.save(self.counters, self.validation_loss, self.spikes.history() if self.spikes else None)

    def report_failed_save(self) -> None:
        """A checkpoint that could not be written does not end the run: the next one may be."""
        if failure := self.saver.failure():
            self.step_log.event(self.counters, "checkpoint_failed", f"no checkpoint: {failure}")

    def rolled_back_after_divergence(self) -> bool:
        """Whether the run has diverged and has gone back to a checkpoint; DivergenceError if it has, and cannot."""
        divergence = self.divergence()
        if divergence is None:
            return False
        if self.spikes is None:
            self.fail(divergence)
        self.heartbeat("rollback")
        with self.clock.phase("checkpoint"):
            checkpoint = self.saver.newest_before(divergence.first)
        if checkpoint is None:
            self.fail(divergence, "There is no checkpoint to go back to (checkpoint.every). ")
        if not self.spikes.may_go_back_to(checkpoint.step):
            self.fail(divergence, f"Going back to {checkpoint.path.name} has led no further before. ")
        self.roll_back(checkpoint, self.spikes, divergence)
        return True

    def divergence(self) -> Divergence | None:
        """That of the last steps, if they are one."""
        streak, limit = self.counters.bad_streak, self.config.bad_step_limit
        if streak < limit:
            return self.spikes.divergence if self.spikes else None
        reason = f"{streak} consecutive steps with a non-finite loss or gradient (training.bad_step_limit = {limit})"
        return Divergence(reason, self.counters.step - streak + 1)

    def roll_back(self, checkpoint: Checkpoint, spikes: SpikeWatch, divergence: Divergence) -> None:
        """Go on from `checkpoint` with data that were not read yet. A new checkpoint says so to a later start."""
        reached = self.counters
        with self.clock.phase("checkpoint"):
            saved = self.saver.go_back(checkpoint)
        self.counters = dataclasses.replace(saved, samples=reached.samples, bad_streak=0)
        self.validation_loss = checkpoint.state.validation_loss
        spikes.went_back(checkpoint.step, checkpoint.state.spikes)
        self.data.start(reached.samples)
        self.step_log.rolled_back(
            self.counters,
            f"step {reached.step}: diverged ({divergence.reason}); back to {checkpoint.path.name}, and on from there "
            f"without the samples {saved.samples} to {reached.samples - 1}",
            from_step=reached.step,
            to_step=checkpoint.step,
            first_sample=saved.samples,
            last_sample=reached.samples - 1,
        )
        self.save()

    def fail(self, divergence: Divergence, remark: str = "") -> NoReturn:
        """End the run. Raises DivergenceError."""
        last = self.counters.step - self.counters.bad_streak
        message = (
            f"stopped after {divergence.reason}; the weights are those of step {last}. {remark}A lower "
            "training.optimizer.learning_rate or a longer training.schedule.warmup_tokens usually helps"
        )
        self.step_log.event(self.counters, "diverged", message)
        raise DivergenceError(message)
