"""When a run is saved, what goes into its checkpoint, and the thread that writes it while training goes on."""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread

import torch

from glm_scale.checkpoint.files import FileRecord, hash_file, write_synced
from glm_scale.checkpoint.pieces import Piece
from glm_scale.checkpoint.points import Reached, unwatched
from glm_scale.checkpoint.reading import Checkpoint
from glm_scale.checkpoint.shards import load_pieces, on_cpu, save_pieces
from glm_scale.checkpoint.state import Counters, SpikeHistory, TrainingState
from glm_scale.checkpoint.store import CheckpointStore
from glm_scale.errors import UserError
from glm_scale.training.config import CheckpointConfig
from glm_scale.training.engine import Engine
from glm_scale.training.ranks import Ranks

__all__ = ["Saver"]

_logger = logging.getLogger(__name__)


class Saver:
    """Saves an engine and its counters, and puts them back; all ranks together.

    Training waits only for the copy to host memory, whose room is kept and as large as this rank's weights and moments.
    A thread of each rank writes it, and rank 0 commits what all have written. `metadata` gives the small files that
    make a checkpoint usable by itself. `reached` is told the named points of a save.
    """

    def __init__(
        self,
        config: CheckpointConfig,
        store: CheckpointStore,
        engine: Engine,
        ranks: Ranks,
        metadata: Callable[[], Mapping[str, bytes]],
        reached: Reached = unwatched,
    ) -> None:
        self._config = config
        self._store = store
        self._engine = engine
        self._ranks = ranks.apart()
        self._metadata = metadata
        self._reached = reached
        self._saved: Counters | None = None
        self._writing: Thread | None = None
        self._room: list[Piece] = []
        self._failure: Exception | None = None
        self._seconds: float | None = None

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due after a step."""
        every = self._config.every
        return step in self._config.at or (every is not None and step % every == 0)

    def save(
        self, counters: Counters, validation_loss: float | None = None, spikes: SpikeHistory | None = None
    ) -> None:
        """Begin to write a checkpoint, unless the newest one has these very counters. Waits for the one before.

        validation_loss: at these counters, if it was measured.
        """
        self.wait()
        if counters == self._saved:
            return
        state = TrainingState(
            counters, self._engine.state.applied_steps, random_state(), validation_loss, spikes, self._seconds
        )
        self._room = on_cpu(self._engine.state.owned(), self._room)
        self._saved = counters
        # A daemon, so that a process that fails can end while this waits for a rank that is gone.
        arguments = (counters.step, self._room, state)
        self._writing = Thread(target=self._write, args=arguments, name="checkpoint", daemon=True)
        self._writing.start()

    def wait(self, seconds: float | None = None) -> None:
        """Until nothing is being written any more, but no longer than `seconds`."""
        if self._writing is not None:
            self._writing.join(seconds)
            if not self._writing.is_alive():
                self._writing = None

    def failure(self) -> str | None:
        """Why the last checkpoint that is done with could not be written, told once; the same on all ranks."""
        if self._writing is not None and not self._writing.is_alive():
            self.wait()
        failure, self._failure = (self._failure, None) if self._writing is None else (None, self._failure)
        return None if failure is None else str(failure)

    def finish(self) -> None:
        """Wait for the last checkpoint. Raises UserError if it could not be written."""
        self.wait()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure if isinstance(failure, UserError) else UserError(f"the last checkpoint failed: {failure}")

    def restore(self, checkpoint: Checkpoint) -> Counters:
        """Put a checkpoint into the engine and the random generators; returns its counters."""
        state = self._engine.state
        with checkpoint.reading():
            load_pieces(checkpoint.path, list(state.held()))
        state.applied_steps = checkpoint.state.optimizer_steps
        state.publish()
        set_random_state(checkpoint.state.random)
        self._saved = checkpoint.state.counters
        return self._saved

    def newest_before(self, step: int) -> Checkpoint | None:
        """The newest whole checkpoint of a step before `step`, or else the oldest that is left. Collective.

        Waits for the one that is being written.
        """
        self.wait()
        return self._ranks.from_first(lambda: self._store.newest_before(step, self._config.verify))

    def go_back(self, checkpoint: Checkpoint) -> Counters:
        """Like `restore`, from one that is not the newest: those that are newer are set aside."""
        self._ranks.from_first(lambda: self._store.set_aside_after(checkpoint))
        return self.restore(checkpoint)

    def _write(self, step: int, pieces: list[Piece], state: TrainingState) -> None:
        begin = time.monotonic()
        try:
            folder = self._ranks.from_first(lambda: self._store.begin(step))
            everyones = self._ranks.gathered(self._write_own(folder, pieces))
            if failures := [why for _, why in everyones if why]:
                if self._ranks.first:
                    self._store.discard(folder)
                raise UserError(failures[0])
            files = {name: record for records, _ in everyones for name, record in records.items()}
            self._ranks.from_first(lambda: self._store.commit(folder, step, state, files))
            self._seconds = time.monotonic() - begin
        except Exception as error:
            _logger.exception("the checkpoint of step %s failed", step)
            self._failure, self._saved = error, None

    def _write_own(self, folder: Path, pieces: list[Piece]) -> tuple[dict[str, FileRecord], str | None]:
        """This rank's files, and what went wrong if anything did: all ranks have to hear of it."""
        try:
            files = self._ranks.together(lambda group: save_pieces(folder, pieces, group, self._reached))
            for name, content in self._metadata().items() if self._ranks.first else ():
                write_synced(folder / name, content)
                files[name] = hash_file(folder / name)
            return files, None
        except Exception as error:
            _logger.exception("shards in %s failed", folder)
            return {}, str(error)


def random_state() -> dict[str, str]:
    """The state of torch's generators, as JSON can hold it."""
    generators = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        generators["cuda"] = torch.cuda.get_rng_state()
    return {device: base64.b64encode(state.numpy().tobytes()).decode() for device, state in generators.items()}


def set_random_state(saved: Mapping[str, str]) -> None:
    """The reverse of `random_state`; a generator of a device that is not here is left out."""
    states = {
        device: torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8) for device, text in saved.items()
    }
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(states["cuda"])
