"""Training all models of one structure on one task together, and asking them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from glm_scale.model.head import IGNORED
from glm_scale.tasks.model import build_model
from glm_scale.tasks.optimizer import StackedAdamW
from glm_scale.tasks.setting import TIMES, Setting
from glm_scale.tasks.stack import Stack, require_agreement
from glm_scale.tasks.task import Examples, Task
from glm_scale.training.groups import parameter_groups
from glm_scale.training.schedule import learning_rate

__all__ = ["StackedTraining", "Trained", "batch_of", "seed_of"]

_CHECKED = 2
"""Sequences by which a stack is compared with single models."""


@dataclass(frozen=True)
class Trained:
    """What came of one model: its last training loss in nats an answer, and the share of right answers on fresh
    sequences at each of `TIMES` the length."""

    seed: int
    rate: float
    loss: float
    accuracy: tuple[float, ...]


class StackedTraining:
    """The models of a setting with one structure, one step at a time.

    steps, tokens: made and seen so far, by all models together. Raises MixerError for a mixer that cannot run on the
    device or cannot be stacked.
    """

    def __init__(self, task: Task, mixer: str, setting: Setting, device: torch.device) -> None:
        self.task, self.setting, self.device = task, setting, device
        compiled = device.type == "cuda"
        if compiled:
            # Compiled code belongs to a function, which keeps a few: those of earlier trainings would be in the way.
            torch.compiler.reset()
        drawn = [build_model(task, mixer, seed, conv=setting.conv, mlp=setting.mlp) for seed in range(setting.seeds)]
        models = [drawn[seed] for seed, _ in setting.members]
        self.stack = Stack(models, device)
        require_agreement(self.stack, models, task.draw(seed_of(task, "check"), _CHECKED).tokens)
        groups = parameter_groups(models[0], setting.optimizer)
        decaying = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
        names = {name for name, parameter in models[0].named_parameters() if id(parameter) in decaying}
        self.optimizer = StackedAdamW(
            self.stack.weights, [rate for _, rate in setting.members], self.stack.marked(names), setting.optimizer,
            compiled=compiled,
        )  # fmt: skip
        self.steps = self.tokens = 0
        self._losses: Callable[..., Tensor] = self._as_written
        if compiled:
            self._losses = torch.compile(self._as_written, dynamic=False)

    def step(self) -> Tensor:
        """One step of all models: their losses before it, fp32 `[M]`, on the device."""
        tokens, labels = batch_of(self.task, self.setting, self.steps, self.device)
        self.tokens += tokens.numel()
        losses = self._losses(self.stack.weights, tokens, labels)
        losses.sum().backward()
        self.steps += 1
        self.optimizer.step(learning_rate(self.setting.schedule, 1.0, self.steps, self.setting.steps))
        return losses.detach()

    def _as_written(self, weights: Tensor, tokens: Tensor, labels: Tensor) -> Tensor:
        logits = self.stack.logits(weights, tokens)
        losses = F.cross_entropy(logits.flatten(0, 2), labels.flatten(), ignore_index=IGNORED, reduction="none")
        return losses.view(labels.shape).sum((0, 1)) / (labels != IGNORED).sum((0, 1))

    @torch.no_grad()
    def accuracies(self, times: int) -> Tensor:
        """The share of right answers of every model, float64 `[M]`, at `times` the length.

        All are asked the same.
        """
        right = torch.zeros(self.stack.size, dtype=torch.int64, device=self.device)
        asked, left, number = 0, self.setting.sequences, 0
        while left:
            size = min(left, max(1, self.setting.batch // times))
            seed = seed_of(self.task, "evaluation", times, number)
            examples = self.task.draw(seed, size, times)
            tokens, labels = (_on(self.device, x)[:, :, None] for x in examples)
            found = self.stack.logits(self.stack.weights, tokens.expand(-1, -1, self.stack.size)).argmax(-1)
            right += (found == labels).sum((0, 1))
            asked, left, number = asked + int((examples.labels != IGNORED).sum()), left - size, number + 1
        return right.double().cpu() / asked

    def results(self, losses: Tensor) -> list[Trained]:
        """What came of each model; `losses`: those of its last step."""
        accuracy = torch.stack([self.accuracies(times) for times in TIMES], 1).tolist()
        members = zip(self.setting.members, losses.tolist(), accuracy, strict=True)
        return [Trained(seed, rate, loss, tuple(shares)) for (seed, rate), loss, shares in members]


def batch_of(task: Task, setting: Setting, step: int, device: torch.device) -> Examples:
    """Tokens and labels of a step, int64 `[B, T, M]`: sequences that no other step has, of each seed its own."""
    drawn = [task.draw(seed_of(task, "training", seed, step), setting.batch) for seed in range(setting.seeds)]
    tokens, labels = (_on(device, torch.stack(parts, 2)) for parts in zip(*drawn, strict=True))
    times = len(setting.rates)
    return Examples(tokens.repeat_interleave(times, 2), labels.repeat_interleave(times, 2))


def _on(device: torch.device, x: Tensor) -> Tensor:
    """x on the device; the host does not wait for a GPU, which may still work on what came before."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x


def seed_of(task: Task, *purpose: str | int) -> int:
    """The seed of some examples, by what they are for: different purposes have nothing in common."""
    digest = hashlib.sha256(":".join(map(str, (task.name, *purpose))).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
