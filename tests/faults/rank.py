"""What a rank of a trial does: the tiny run as `glm-scale train` does it, with faults that it brings about itself."""

from __future__ import annotations

import builtins
import errno
import faulthandler
import io
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm_data import Batch
from glm_scale.checkpoint import CheckpointStore
from glm_scale.checkpoint.points import Point
from glm_scale.config import RunConfig, validate
from glm_scale.errors import UserError
from glm_scale.run import session
from glm_scale.run.train import train
from glm_scale.training.loop import Trainer
from glm_scale.training.ranks import Ranks
from glm_scale.training.saver import Saver
from tests.faults.notes import Notebook

FULL, READ_ONLY = errno.ENOSPC, errno.EROFS


@dataclass(frozen=True)
class Death:
    """A rank kills itself when it comes to a point of the save for the given time."""

    rank: int
    point: Point
    time: int


@dataclass(frozen=True)
class Refusal:
    """On one rank the disk refuses with error `number`: from call `call` of those that would write on, during saves
    `first` to `last`; all counted from 0.
    """

    rank: int
    number: int
    call: int
    first: int
    last: int


@dataclass(frozen=True)
class Faults:
    """`clock`: seed of a clock that jumps. `stop`: at which step the run is asked to stop."""

    death: Death | None = None
    refusal: Refusal | None = None
    clock: int | None = None
    stop: int | None = None


def run(config: dict[str, Any], faults: Faults, folder: Path) -> int:
    """One rank's share in a run, noted in `folder`; returns the exit code."""
    rank = int(os.environ["RANK"])
    if config["parallel"] == {}:
        # Without a launcher there are no such variables.
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            del os.environ[name]
    note = Notebook(folder, rank)
    note("process begins")
    faulthandler.register(signal.SIGQUIT)  # shows where it stands, if it does
    _watch(note, rank, faults)
    try:
        return train(validate(RunConfig, config, "the trial")).exit_code
    except UserError as error:
        print(f"error: {error}", flush=True)
        return 1


def _watch(note: Notebook, rank: int, faults: Faults) -> None:
    reached = _Reached(note, faults.death if faults.death and faults.death.rank == rank else None)
    refusals = faults.refusal if faults.refusal and faults.refusal.rank == rank else None
    disk = _Disk(refusals) if refusals else None

    class NotedSaver(Saver):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named | {"reached": reached})

        def _write(self, step: int, *arguments: Any) -> None:
            note("save begins", step)
            if disk:
                disk.next_save()
            earlier = self._failure
            super()._write(step, *arguments)
            note("save ends", step, None if self._failure is earlier else str(self._failure))

    class NotedTrainer(Trainer):
        def train(self) -> Any:
            note("training begins", self.counters.step)
            return super().train()

        def rolled_back_after_divergence(self) -> bool:
            note("step", self.counters.step)
            if self.counters.step == faults.stop and rank == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().rolled_back_after_divergence()

    def store(*arguments: Any, **named: Any) -> CheckpointStore:
        clock = time.time if faults.clock is None else _jumping(faults.clock)
        return CheckpointStore(*arguments, **named, reached=reached, clock=clock)

    session.Saver, session.Trainer = NotedSaver, NotedTrainer  # type: ignore[misc]
    session.CheckpointStore = store  # type: ignore[assignment,misc]
    Ranks.batches = _noting_samples(Ranks.batches, note)  # type: ignore[method-assign]
    # A figure takes longer than all the rest.
    session.Session._draw_loss = lambda self: None  # type: ignore[method-assign]


class _Reached:
    """Notes the points of a save, and dies at one."""

    def __init__(self, note: Notebook, death: Death | None) -> None:
        self._note, self._death = note, death
        self._times = 0

    def __call__(self, point: str) -> None:
        self._note("point", point)
        if self._death and point == self._death.point:
            self._times += 1
            if self._times == self._death.time:
                os.kill(os.getpid(), signal.SIGKILL)


class _Disk:
    """Refuses what would write among checkpoints, as a full or a read-only disk does."""

    def __init__(self, refusal: Refusal) -> None:
        self._refusal = refusal
        self._save, self._calls = -1, 0
        io.open = builtins.open = self._refusing(io.open, lambda mode="r", *_: set(mode) & set("wax+"))
        os.mkdir = self._refusing(os.mkdir, lambda *_: True)
        os.rename = self._refusing(os.rename, lambda *_: True)

    def next_save(self) -> None:
        self._save, self._calls = self._save + 1, 0

    def _refusing(self, function: Callable[..., Any], writes: Callable[..., Any]) -> Callable[..., Any]:
        def refusing(path: Any, *arguments: Any, **named: Any) -> Any:
            refusal = self._refusal
            is_ours = isinstance(path, str | Path) and "checkpoints" in Path(path).parts
            if is_ours and refusal.first <= self._save <= refusal.last and writes(*arguments):
                self._calls += 1
                if self._calls > refusal.call:
                    raise OSError(refusal.number, os.strerror(refusal.number), str(path))
            return function(path, *arguments, **named)

        return refusing


def _noting_samples(batches: Callable[..., Iterator[Batch]], note: Notebook) -> Callable[..., Iterator[Batch]]:
    """Notes which samples of the training data a rank gets."""

    def noted(ranks: Ranks, sequences: Any, start: int, micro_batch: int, stop: int | None = None) -> Iterator[Batch]:
        for batch in batches(ranks, sequences, start, micro_batch, stop):
            if stop is None:  # those of an evaluation have an end
                note("samples", ranks.mesh.data_rank if ranks.mesh else 0, batch.samples.tolist())
            yield batch

    return noted


def _jumping(seed: int) -> Callable[[], float]:
    """A clock that goes years back and forth."""
    draw = random.Random(seed)
    return lambda: time.time() + draw.uniform(-1e9, 1e9)
