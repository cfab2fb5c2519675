"""Whole runs on the ranks of a group, as `glm-scale train` starts them."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Collection
from pathlib import Path
from typing import Any
from unittest import mock

from torch import distributed as dist

from glm_scale.checkpoint.layout import find_checkpoint
from glm_scale.checkpoint.shards import KINDS, read_tensors
from glm_scale.config import RunConfig, validate
from glm_scale.errors import UserError
from glm_scale.model import LanguageModel
from glm_scale.run.train import Outcome, train
from glm_scale.training.loop import Trainer
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
    after_any_step = Trainer.rolled_back_after_divergence

    def after_step(trainer: Trainer) -> bool:
        if dist.get_rank() == rank and trainer.counters.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return after_any_step(trainer)

    with mock.patch.object(Trainer, "rolled_back_after_divergence", after_step):
        return run(config)


def run_with_spikes(
    config: dict[str, Any], steps: Collection[int], ranks: Collection[int], what: str = "loss"
) -> Outcome:
    """On some ranks the losses of these steps, counted from 1 without regard to rollbacks, are far too large.

    what: "gradient norm" lets them be what they are, and makes their gradients large.
    """
    forward, passes = LanguageModel.forward, itertools.count()
    accumulation = 2

    def spoiled(self: LanguageModel, *arguments: Any, **keywords: Any) -> Any:
        loss = forward(self, *arguments, **keywords)
        if not self.training or 1 + next(passes) // accumulation not in steps:
            return loss
        return loss * 1000 if what == "loss" else loss + 1000 * (loss - loss.detach())

    if dist.get_rank() in ranks:
        LanguageModel.forward = spoiled  # type: ignore[method-assign]
    try:
        return run(config)
    finally:
        LanguageModel.forward = forward  # type: ignore[method-assign]


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
