"""Whole runs on the ranks of a group, as `glm-scale train` starts them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from torch import distributed as dist

from glm_scale.config import RunConfig, validate
from glm_scale.errors import UserError
from glm_scale.training.checkpoint.layout import find_checkpoint
from glm_scale.training.checkpoint.shards import KINDS, read_tensors
from glm_scale.training.loop import Trainer
from glm_scale.training.session import Outcome, train
from tests.parallel.training import attach_deepspeed


def run(config: dict[str, Any]) -> Outcome:
    """How the run ended on this rank."""
    attach_deepspeed()
    return train(validate(RunConfig, config, "the test"))


def run_and_tell(config: dict[str, Any]) -> str:
    """What this rank is told of a run that cannot be started."""
    try:
        run(config)
    except UserError as error:
        return str(error)
    return ""


def run_with_signal(config: dict[str, Any], rank: int, step: int) -> Outcome:
    """One rank alone is asked to stop after a step."""
    stop_if_diverged = Trainer.stop_if_diverged

    def after_step(trainer: Trainer) -> None:
        if dist.get_rank() == rank and trainer.counters.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        stop_if_diverged(trainer)

    Trainer.stop_if_diverged = after_step  # type: ignore[method-assign]
    try:
        return run(config)
    finally:
        Trainer.stop_if_diverged = stop_if_diverged  # type: ignore[method-assign]


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The records of a run's metrics log."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def losses(folder: Path, kind: str = "train") -> list[float]:
    return [record["loss"] for record in records(folder, kind)]


def weights(folder: Path) -> dict[str, bytes]:
    """The bits of the newest checkpoint."""
    checkpoint = find_checkpoint(folder, print)
    return {
        f"{name}.{kind}": tensor.numpy().tobytes()
        for name, tensors in read_tensors(checkpoint, KINDS)
        for kind, tensor in tensors.items()
    }
