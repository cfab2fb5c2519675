"""From a configuration to a trained run: builds the components, connects them, and says truthfully how it ended."""

import contextlib
import itertools
import logging
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any

import torch
import yaml

from glm_data import Batch, DataError, PackedRows, batches
from glm_scale.config import RunConfig, resolved_yaml
from glm_scale.errors import UserError
from glm_scale.model import LanguageModel
from glm_scale.runs import RunDirectory, RunSummary, write_atomically
from glm_scale.tracking import MetricsLog, Tracker
from glm_scale.tracking.tracker import FinalStatus
from glm_scale.training import distributed
from glm_scale.training.checkpoint import Checkpoint, CheckpointStore, Saver
from glm_scale.training.checkpoint.loading import CONFIG_NAME, TOKENIZER_NAME
from glm_scale.training.clock import Clock
from glm_scale.training.counters import Counters
from glm_scale.training.engine import Engine
from glm_scale.training.hardware import peak_flops
from glm_scale.training.journal import Journal
from glm_scale.training.loop import Trainer
from glm_scale.training.progress import Progress, open_progress
from glm_scale.training.resume import check_resumable
from glm_scale.training.signals import StopRequest
from glm_scale.training.validator import Validator

__all__ = ["Outcome", "train"]


@dataclass(frozen=True)
class Outcome:
    """How a run ended; `signal` is the one that stopped it, None if none did."""

    status: FinalStatus
    signal: Signals | None = None


def train(config: RunConfig) -> Outcome:
    """Train the run that `config` describes, from its newest checkpoint if there is one.

    Raises:
        UserError: it cannot be started, or stopped because it diverged (the run is marked as failed then).
    """
    distributed.refuse_several_processes()
    run = RunDirectory(config.run_root / config.name).create()
    with run.lock(), _logging_to(run.log), open_progress(config.name) as progress, StopRequest() as stop:
        checkpoint = CheckpointStore(run.checkpoints, config.checkpoint.keep).newest()
        if run.exists():
            _check_resumable(run, config, checkpoint, progress)
            if _is_complete(run, config, checkpoint):
                progress.say(f"{config.name} is finished already ({run.path}); raise training.tokens to go on")
                return Outcome("finished")
        session = _Session(config, run, progress, stop, checkpoint)
        with _deterministic(session.device):
            status = session.run_to_end()
        return Outcome(status, stop.signal if status == "killed" else None)


class _Session:
    """One process's share in a run."""

    def __init__(
        self, config: RunConfig, run: RunDirectory, progress: Progress, stop: StopRequest, checkpoint: Checkpoint | None
    ) -> None:
        self.config = config
        self.run = run
        self.progress = progress
        self.stop = stop
        self.checkpoint = checkpoint
        self.device = distributed.resolve_device(config.training.device)
        self.rows = _open_rows(config, "train", run)
        self.validation_rows = _open_rows(config, "validation", run)
        self.tokenizer = self.rows.tokenizer

    def run_to_end(self) -> FinalStatus:
        torch.manual_seed(self.config.training.seed)
        model = LanguageModel(self.config.model, seed=self.config.training.seed)
        summary = self._write_papers(model)
        engine = self._build_engine(model)
        saver = Saver(
            self.config.checkpoint,
            CheckpointStore(self.run.checkpoints, self.config.checkpoint.keep),
            engine,
            {CONFIG_NAME: self.run.config.read_bytes(), TOKENIZER_NAME: self.tokenizer.model},
        )
        counters = self._restore(saver)
        with MetricsLog(self.run.metrics) as log:
            log.truncate(counters.step)
            tracker = Tracker(self.config.tracking, self.run, log)
            tracker.start()
            status: FinalStatus = "failed"
            try:
                status = self._train(engine, saver, log, counters, summary)
            except KeyboardInterrupt:
                status = "killed"
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

    def _draw_loss(self) -> None:
        """plots/loss.png, which the tracker takes along. A figure that fails must not change how a run ends."""
        from glm_scale.scaling.comparison import compare
        from glm_scale.scaling.png import draw_comparison

        try:
            draw_comparison(compare([self.run]), self.run.plots / "loss.png")
        except Exception:
            logging.getLogger(__name__).exception("plots/loss.png could not be drawn")

    def _train(
        self, engine: Engine, saver: Saver, log: MetricsLog, counters: Counters, summary: RunSummary
    ) -> FinalStatus:
        clock = Clock()
        journal = Journal(
            log,
            self.progress,
            clock,
            steps=self.config.training.steps,
            flops_per_token=summary.train_flops_per_token,
            peak_flops=peak_flops(self.device, self.config.training.precision),
        )
        with contextlib.closing(self._steps(counters.samples)) as steps:
            trainer = Trainer(
                self.config.training, engine, steps, self._validator(), saver, journal, clock, self.stop, counters
            )
            try:
                status = trainer.train()
            finally:
                reached = trainer.counters
                self.run.update_summary(step=reached.step, tokens=reached.tokens, samples=reached.samples)
        logging.getLogger(__name__).info("%s", journal.time_spent())
        if status == "killed":
            self.progress.say(
                f"stopped by {self.stop.name} at step {reached.step}; the same command goes on from there"
            )
        return status

    def _write_papers(self, model: LanguageModel) -> RunSummary:
        """config.yaml, version.json and summary.json: what the tracker and other commands read."""
        config = self.config
        started = self.run.read_summary().started if self.run.exists() else time.time()
        write_atomically(self.run.config, resolved_yaml(config.model_copy(update={"ladder": None})))
        self.run.write_version()
        length = config.data.sequence_length
        summary = RunSummary(
            name=config.name,
            mixer=config.model.mixer_name,
            parameters=model.parameter_count(),
            non_embedding_parameters=model.parameter_count(embedding=False),
            train_flops_per_token=3 * model.flops_per_token(length),
            sequence_length=length,
            started=started,
            step=self.checkpoint.step if self.checkpoint else 0,
            tokenizer_fingerprint=self.rows.tokenizer_fingerprint,
            data_fingerprint=self.rows.fingerprint,
        )
        self.run.write_summary(summary)
        self.progress.say(
            f"{config.name}: {summary.mixer}, {summary.parameters:,} parameters "
            f"({summary.non_embedding_parameters:,} outside the embeddings), "
            f"{config.training.steps} steps of {config.training.batch_tokens:,} tokens on {self.device}"
        )
        return summary

    def _build_engine(self, model: LanguageModel) -> Engine:
        training = self.config.training
        model.activation_checkpointing = training.activation_checkpointing
        if training.compile:
            # Block by block: one graph serves all layers of a kind, and compiling takes seconds instead of minutes.
            for block in model.blocks:
                block.compile()
        if distributed.first_start_compiles(self.device):
            self.progress.say(
                "first start on this machine: DeepSpeed compiles a small communication op, about half a minute"
            )
        with distributed.quiet(self.run.log):
            distributed.start(self.device)
            engine = Engine(model, training, self.config.accumulation, self.device)
        distributed.send_library_logs_to(logging.FileHandler(self.run.log))
        return engine

    def _restore(self, saver: Saver) -> Counters:
        if self.checkpoint is None:
            return Counters()
        counters = saver.restore(self.checkpoint)
        self.progress.say(f"going on from step {counters.step} ({self.checkpoint.path.name})")
        return counters

    def _steps(self, start: int) -> Generator[Sequence[Batch]]:
        """The micro-batches of one step after the other, from row `start` on."""
        stream = batches(self.rows, start, self.config.training.micro_batch)
        try:
            while step := list(itertools.islice(stream, self.config.accumulation)):
                for problem in itertools.chain.from_iterable(batch.problems for batch in step):
                    self.progress.say(f"skipped bad sample: {problem}")
                yield step
        finally:
            stream.close()  # type: ignore[attr-defined]  # ends the worker processes

    def _validator(self) -> Validator:
        config, rows = self.config, self.validation_rows
        count = min(config.evaluation.rows or len(rows), len(rows))

        def fresh() -> Iterator[Batch]:
            return batches(rows, 0, config.training.micro_batch, stop=count)

        return Validator(config.evaluation, fresh, torch.from_numpy(self.tokenizer.token_bytes))


def _open_rows(config: RunConfig, split: Any, run: RunDirectory) -> PackedRows:
    recorded = run.read_summary() if run.exists() else None
    rows = PackedRows(config.data, split, tokenizer=recorded.tokenizer_fingerprint if recorded else None)
    if rows.vocabulary_size > config.model.vocab_size:
        raise UserError(
            f"model.vocab_size = {config.model.vocab_size} is too small for the {rows.vocabulary_size} tokens of "
            f"{config.data.sources[0].path}; set model.vocab_size={rows.vocabulary_size}"
        )
    if split == "train" and recorded and recorded.data_fingerprint not in (None, rows.fingerprint):
        raise UserError(
            f"{run.path} was started on other data: what data.sources hold now is not what it held then. "
            "Restore the data, or give this run a new name (name=…)."
        )
    return rows


def _check_resumable(run: RunDirectory, config: RunConfig, checkpoint: Checkpoint | None, progress: Progress) -> None:
    before = yaml.safe_load(run.config.read_text())
    tokens = int(checkpoint.state["counters"]["tokens"]) if checkpoint else 0
    after = config.model_copy(update={"ladder": None}).model_dump(mode="json")
    for remark in check_resumable(before, after, tokens, str(run.path)):
        progress.say(f"changed since the run was started: {remark}")


def _is_complete(run: RunDirectory, config: RunConfig, checkpoint: Checkpoint | None) -> bool:
    done = int(checkpoint.state["counters"]["tokens"]) if checkpoint else 0
    return run.read_summary().status == "finished" and done >= config.training.tokens


@contextlib.contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """On CPU, where it costs nothing, refuse operations whose result depends on scheduling."""
    # torch.utils.deterministic is a module that acts as an object, which type checkers do not see.
    settings: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        # The switch would also fill all fresh memory, which does cost.
        settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        settings.fill_uninitialized_memory = before[1]


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Send the log of this package to a file."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in ("glm_scale", "glm_data")]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        # What a user has to see goes through Progress; the log must not leak onto the progress line.
        logger.propagate = False
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
            logger.propagate = True
        handler.close()
