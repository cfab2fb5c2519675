"""One process's share in a run: builds the components, connects them, and sees the run to its end."""

import contextlib
import logging
import time
from collections.abc import Iterator

import torch

from glm_data import Batch, DataError, start_early
from glm_scale.checkpoint import Checkpoint, CheckpointStore, Counters, Retention
from glm_scale.config import RunConfig, layout_of
from glm_scale.errors import UserError
from glm_scale.evaluation.in_training import TasksInTraining
from glm_scale.inference.loading import CONFIG_NAME
from glm_scale.model import LanguageModel
from glm_scale.parallel.tensor.overlap import in_pieces, share_memory
from glm_scale.run.metadata import write_metadata
from glm_scale.run.preflight import open_sequences
from glm_scale.run.process_group import libraries_logging_to, tell_about_compiling
from glm_scale.run_directory import FinalStatus, RunDirectory, RunSummary
from glm_scale.tracking import MetricsLog, Tracker
from glm_scale.training import distributed
from glm_scale.training.compiler import importing_compiler
from glm_scale.training.engine import Engine
from glm_scale.training.hardware import peak_flops
from glm_scale.training.loop import Trainer
from glm_scale.training.oversight import Oversight
from glm_scale.training.profiling import StepProfiler
from glm_scale.training.progress import Progress
from glm_scale.training.ranks import Ranks
from glm_scale.training.saver import Saver
from glm_scale.training.spikes import SpikeWatch
from glm_scale.training.step_log import SilentStepLog, StepLog
from glm_scale.training.steps import StepData
from glm_scale.training.token_groups import TokenGroups
from glm_scale.training.validator import Validator

__all__ = ["Session", "checkpoint_store"]

_PATIENCE = 20.0
"""Seconds for the last checkpoint to come to its end after an error that other ranks may not know of."""


class Session:
    """One process's share in a run that goes on from `checkpoint`, or begins."""

    def __init__(
        self,
        config: RunConfig,
        run: RunDirectory,
        ranks: Ranks,
        device: torch.device,
        oversight: Oversight,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.config = config
        self.run = run
        self.ranks = ranks
        self.device = device
        self.oversight = oversight
        self.progress = oversight.progress
        self.checkpoint = checkpoint
        self.sequences = open_sequences(config, "train", run)
        self.validation_sequences = open_sequences(config, "validation", run)
        self.tokenizer = self.sequences.tokenizer
        self.accumulation = config.accumulation(ranks.mesh.layout.data if ranks.mesh else 1)

    def run_to_end(self, profile: bool) -> FinalStatus:
        clock = self.oversight.clock
        with clock.phase("opening"):
            self.tasks = self._open_tasks()
        torch.manual_seed(self.config.training.seed)
        if self.config.data.workers:
            start_early()
        with clock.phase("opening"):
            summary = self.ranks.from_first(self._record)
        engine = self._build_engine()
        store = checkpoint_store(self.config, self.run, self.progress)
        saver = Saver(self.config.checkpoint, store, engine, self.ranks, self._checkpoint_metadata)
        with clock.phase("restoring"):
            counters = self._restore(saver)
        if self.ranks.first:
            status = self._train_and_record(engine, saver, counters, summary, profile)
        else:
            status = self._train(engine, saver, counters, SilentStepLog(clock))
        # Not after a failure, of which the device may be a part.
        engine.close()
        return status

    def _train_and_record(
        self, engine: Engine, saver: Saver, counters: Counters, summary: RunSummary, profile: bool
    ) -> FinalStatus:
        with MetricsLog(self.run.metrics) as log:
            # The last evaluation belongs to the checkpoint of the last step, but comes before it: it is made again.
            finished = counters.tokens >= self.config.training.tokens
            log.truncate(counters.step, again=("validation", "breakdown", "task") if finished else ())
            tracker = Tracker(self.config.tracking, self.run, log, self.progress.say)
            tracker.start()
            status: FinalStatus = "failed"
            try:
                with self._profiler(profile) as profiler:
                    status = self._train(engine, saver, counters, self._step_log(log, summary, profiler))
            except KeyboardInterrupt:
                status = "stopped"
                raise
            except Exception as error:
                expected = isinstance(error, UserError | DataError)
                logging.getLogger(__name__).error("the run failed: %s", error, exc_info=not expected)
                raise
            finally:
                self.run.update_summary(status=status, ended=time.time())
                self._draw_loss()
                tracker.close(status)
        return status

    def _checkpoint_metadata(self) -> dict[str, bytes]:
        """What a checkpoint says beside its tensors: config, tokenizer, code version, and the run's place in MLflow."""
        files = {CONFIG_NAME: self.run.config.read_bytes(), **self.tokenizer.files}
        for path in (self.run.version, self.run.tracking):
            if path.exists():
                files[path.name] = path.read_bytes()
        return files

    def _draw_loss(self) -> None:
        """plots/loss.png, which the tracker takes along. A figure that fails must not change how a run ends."""
        from glm_scale.scaling.comparison import compare
        from glm_scale.scaling.pictures.panels import Subject
        from glm_scale.scaling.pictures.sheets import draw

        try:
            draw(Subject(compare([self.run])), self.run.plots / "loss.png")
        except Exception:
            logging.getLogger(__name__).exception("plots/loss.png could not be drawn")

    @contextlib.contextmanager
    def _profiler(self, wanted: bool) -> Iterator[StepProfiler | None]:
        if not wanted:
            yield None
            return
        with StepProfiler(self.run.profile, self.device) as profiler:
            yield profiler
        if missing := profiler.missing():
            self.progress.say(missing)

    def _step_log(self, log: MetricsLog, summary: RunSummary, profiler: StepProfiler | None) -> StepLog:
        peak, count = peak_flops(self.device, self.config.training.precision), layout_of(self.config).processes
        return StepLog(
            log,
            self.progress,
            self.oversight.clock,
            steps=self.config.training.steps,
            flops_per_token=summary.train_flops_per_token,
            peak_flops=peak * count if peak else None,
            breakdown=self.run.breakdown,
            tasks=self.run.tasks,
            profiler=profiler,
        )

    def _train(self, engine: Engine, saver: Saver, counters: Counters, step_log: StepLog) -> FinalStatus:
        training, history = self.config.training, self.checkpoint.state.spikes if self.checkpoint else None
        spikes = SpikeWatch(training.spikes, history) if training.spikes else None
        data = StepData(
            self.sequences, self.ranks, training.micro_batch, self.accumulation, engine.upload, self.progress.say
        )
        with contextlib.closing(data):
            trainer = Trainer(
                training, engine, data, self._validator(), self.tasks, saver, spikes, step_log, self.oversight, counters
            )
            try:
                status = trainer.train()
            except UserError:
                saver.wait()
                raise
            except Exception:
                # If another rank is gone, the one that the checkpoint waits for may wait for the end of this one.
                saver.wait(_PATIENCE)
                raise
            finally:
                reached = trainer.counters
                if self.ranks.first:
                    self.run.update_summary(step=reached.step, tokens=reached.tokens, samples=reached.samples)
        logging.getLogger(__name__).info("%s", step_log.time_spent())
        if status == "finished":
            return status
        where = f"at step {reached.step} ({self.run.path})"
        if self.run.was_cancelled():
            self.progress.say(f"cancelled {where}; glm-scale resume {self.run.path} goes on from there")
            return "cancelled"
        self.progress.say(f"stopped by {self.oversight.stop.reason} {where}; the same command goes on from there")
        return status

    def _record(self) -> RunSummary:
        """The run as its directory describes it from now on; the user sees it, too."""
        step = self.checkpoint.step if self.checkpoint else 0
        summary = write_metadata(self.run, self.config, self.sequences, step)
        mesh = self.ranks.mesh
        self.progress.say(
            f"{summary.name}: {summary.mixer}, {summary.parameters:,} parameters "
            f"({summary.non_embedding_parameters:,} outside the embeddings), "
            f"{self.config.training.steps} steps of {self.config.training.batch_tokens:,} tokens on "
            + (f"{mesh.layout.processes} × {self.device.type} ({mesh.layout})" if mesh else str(self.device))
        )
        if remark := self.validation_sequences.remark:
            self.progress.say(remark)
        return summary

    def _build_engine(self) -> Engine:
        training, mesh, clock = self.config.training, self.ranks.mesh, self.oversight.clock
        compiled = training.compiles(self.device.type)
        with clock.phase("model"), importing_compiler() if compiled else contextlib.nullcontext():
            model = LanguageModel(self.config.model, seed=training.seed, tensor=mesh.tensor if mesh else None)
        model.activation_checkpointing = training.activation_checkpointing
        model.sequence_axis = mesh.sequence if mesh else None
        if compiled:
            together = mesh is not None and share_memory(mesh.tensor, self.device)
            model.compile_blocks(options=in_pieces() if together else None)
        if not mesh:
            tell_about_compiling(self.device, self.progress)
        with clock.phase("engine"), libraries_logging_to(self.run.log, self.ranks.first):
            distributed.start(self.device)
            return Engine(model, training, self.accumulation, self.device, mesh)

    def _restore(self, saver: Saver) -> Counters:
        if self.checkpoint is None:
            return Counters()
        counters, branch = saver.restore(self.checkpoint), self.config.branch
        if branch is not None and self.checkpoint.path.parent != self.run.checkpoints:
            self.progress.say(f"begins as {branch.run} was after step {counters.step}")
        else:
            self.progress.say(f"going on from step {counters.step} ({self.checkpoint.path.name})")
        return counters

    def _open_tasks(self) -> TasksInTraining | None:
        """Before anything else takes its time: what is wrong with a task is known now."""
        config = self.config.evaluation.tasks
        if config is None:
            return None
        with torch.device("meta"):
            whole = LanguageModel(self.config.model)
        tasks = TasksInTraining(
            config,
            self.tokenizer,
            self.config.data.sequence_length,
            self.config.training.micro_batch,
            self.ranks,
            self.oversight,
            whole,
        )
        self.progress.say(tasks.described)
        return tasks

    def _validator(self) -> Validator | None:
        config, sequences = self.config, self.validation_sequences
        if not len(sequences):
            return None
        count = min(config.evaluation.sequences or len(sequences), len(sequences))

        def fresh() -> Iterator[Batch]:
            for batch in self.ranks.batches(sequences, 0, config.training.micro_batch, stop=count):
                self.oversight.heartbeat("evaluation")
                yield batch

        def groups() -> TokenGroups:
            return TokenGroups.of(sequences, count, self.ranks.own_columns)

        token_bytes = torch.from_numpy(self.tokenizer.token_bytes)
        return Validator(config.evaluation, fresh, groups, token_bytes, self.ranks.totals)


def checkpoint_store(config: RunConfig, run: RunDirectory, progress: Progress) -> CheckpointStore:
    wanted = config.checkpoint
    retention = Retention(wanted.keep, wanted.keep_every, wanted.keep_best, wanted.at)
    return CheckpointStore(run.checkpoints, retention, tell=progress.say)
