"""When a run is saved, and what goes into its checkpoint."""

import base64
from collections.abc import Mapping
from typing import Any

import torch

from glm_scale.errors import UserError
from glm_scale.training.checkpoint.store import Checkpoint, CheckpointStore
from glm_scale.training.config import CheckpointConfig
from glm_scale.training.counters import Counters
from glm_scale.training.engine import Engine
from glm_scale.training.zero_state import MOMENTS

__all__ = ["Saver"]


class Saver:
    """Saves an engine and its counters, and puts them back.

    `companions` are the small files that make a checkpoint usable by itself. Ranks save and restore together; one of
    them has the `store` and writes.
    """

    def __init__(
        self, config: CheckpointConfig, store: CheckpointStore | None, engine: Engine, companions: Mapping[str, bytes]
    ) -> None:
        self._config = config
        self._store = store
        self._engine = engine
        self._companions = companions
        self._saved: int | None = None

    def due(self, step: int) -> bool:
        return self._config.every is not None and step % self._config.every == 0

    def save(self, counters: Counters) -> None:
        """Write a checkpoint, unless the newest one is of this very step."""
        if counters.step == self._saved:
            return
        state = self._engine.state
        record = {
            "counters": counters.as_dict(),
            "optimizer_steps": state.applied_steps,
            "random": random_state(),
        }
        tensors = ((name, state.read(name)) for name in state.shapes())
        if self._store is None:
            for _ in tensors:
                pass
        else:
            self._store.save(counters.step, tensors, record, self._companions)
        self._saved = counters.step

    def restore(self, checkpoint: Checkpoint) -> Counters:
        """Put a checkpoint into the engine and the random generators; returns its counters."""
        state = self._engine.state
        _check_shapes(state.shapes(), checkpoint)
        for name, tensors in checkpoint.tensors(("weight", *MOMENTS)):
            state.write(name, tensors)
        state.applied_steps = checkpoint.state["optimizer_steps"]
        state.publish()
        set_random_state(checkpoint.state["random"])
        self._saved = checkpoint.step
        return Counters(**checkpoint.state["counters"])


def random_state() -> dict[str, Any]:
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


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], checkpoint: Checkpoint) -> None:
    missing = shapes.keys() - set(checkpoint.parameters)
    unknown = set(checkpoint.parameters) - shapes.keys()
    if missing or unknown:
        raise UserError(
            f"{checkpoint.path} is of another model: it lacks {sorted(missing)[:3] or 'nothing'} "
            f"and has {sorted(unknown)[:3] or 'nothing'} besides"
        )
