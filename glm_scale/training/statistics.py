"""What a run says of its insides, on request: sizes of weights, gradients and steps by layer, and how mixers weigh.

    weight/…, gradient/…, update/…    norms of all weights of a part of the model; gradients after clipping
    own_weight/…, entropy/…           of stages whose rows are averages: the mean weight of a row's own input, and the
                                      mean entropy of its weights in nats; 0 is a row that reads one thing alone

A part is `embedding`, `norm`, `head`, or as `blocks.3.mixer` a layer's. Norms are those of the whole model in every
layout: each rank adds what it owns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from glm_scale.layers.sequence import Sequence as TokenSequence
from glm_scale.mixers.heads import HeadMixing
from glm_scale.model import LanguageModel
from glm_scale.training.micro_batch import DeviceBatch
from glm_scale.training.muon import OwnRun

__all__ = ["StepNorms", "mixing_statistics"]

_KINDS = ("weight", "gradient", "update")
_TOKENS = 512
"""That stages are looked at with: all pairs of them are compared."""


class StepNorms:
    """Norms of one optimizer step: armed before it, read after it. `runs` gives what this rank owns of all parameters;
    it is asked when a step is watched."""

    def __init__(self, names: Iterable[str], runs: Callable[[], Iterable[OwnRun]], device: torch.device) -> None:
        self._numbers = {name: number for number, name in enumerate(names)}
        self._find_runs = runs
        self._runs: defaultdict[int, list[OwnRun]] = defaultdict(list)
        self._squares = torch.zeros(len(self._numbers), len(_KINDS), dtype=torch.float64, device=device)
        self._before: dict[int, Tensor] = {}
        self.armed = False

    def arm(self) -> None:
        """Watch the next step. It costs a copy of what the optimizer steps at once."""
        self.armed = True
        self._squares.zero_()
        if not self._runs:
            for run in self._find_runs():
                self._runs[id(run.master)].append(run)

    @torch.no_grad()
    def before(self, masters: Iterable[Tensor]) -> None:
        """Of tensors that are about to be stepped."""
        for master in masters:
            self._before[id(master)] = master.detach().clone()
            if master.grad is not None:
                self._add("gradient", master, master.grad)

    @torch.no_grad()
    def after(self, masters: Iterable[Tensor]) -> None:
        """The same tensors, when they have been stepped."""
        for master in masters:
            self._add("weight", master, master.detach())
            self._add("update", master, master.detach() - self._before.pop(id(master)))

    def _add(self, kind: str, master: Tensor, values: Tensor) -> None:
        for run in self._runs[id(master)]:
            square = run.of(values).double().square().sum()
            self._squares[self._numbers[run.held.name], _KINDS.index(kind)] += square

    def read(self) -> dict[str, float]:
        """By kind and part of the model. Collective."""
        self.armed = False
        if dist.get_world_size() > 1:
            dist.all_reduce(self._squares)
        found: dict[str, float] = {}
        for name, squares in zip(self._numbers, self._squares.tolist(), strict=True):
            for kind, square in zip(_KINDS, squares, strict=True):
                key = f"{kind}/{part_of(name)}"
                found[key] = found.get(key, 0.0) + square
        return {key: square**0.5 for key, square in found.items()}


def part_of(name: str) -> str:
    """The part of the model that a parameter belongs to."""
    words = name.split(".")
    return ".".join(words[:3] if words[0] == "blocks" else words[:1])


@torch.no_grad()
def mixing_statistics(model: LanguageModel, batch: DeviceBatch) -> dict[str, float]:
    """How the stages of every layer weigh what they read, in the mean over the first tokens of a sequence on each rank.

    Each rank takes the first of its own tokens for the beginning of a document. Collective.
    """
    found: dict[str, Tensor] = {}

    def look(name: str) -> Any:
        def hook(stage: HeadMixing, inputs: tuple[Tensor, Tensor, TokenSequence]) -> None:
            if (weights := stage.row_weights(inputs[0], inputs[2])) is not None:
                found[f"own_weight/{name}"] = weights.own.mean()
                found[f"entropy/{name}"] = weights.entropy.mean()

        return hook

    tokens, starts = _sample(batch, model)
    hooks = [stage.register_forward_pre_hook(look(name)) for name, stage in _stages(model)]
    try:
        sequence = TokenSequence.of(tokens.shape[1], model.rotary, tokens.device, starts)
        x = model.embedding(tokens)
        for block in model.blocks:
            # Not through the module's call, which may be compiled: for other shapes, and without hooks.
            x = block.forward(x, sequence)
    finally:
        for hook in hooks:
            hook.remove()
    return _mean_over_ranks(found)


def _stages(model: nn.Module) -> Iterator[tuple[str, HeadMixing]]:
    """Named by their layer, and by their number where a layer has several."""
    for name, module in model.named_modules():
        if isinstance(module, HeadMixing):
            layer, _, number = name.partition(".mixer.stages.")
            yield layer if number == "0" else f"{layer}.{number}", module


def _sample(batch: DeviceBatch, model: LanguageModel) -> tuple[Tensor, Tensor]:
    ranks = model.tensor.size if model.tensor else 1
    count = min(_TOKENS, batch.tokens.shape[1] // ranks * ranks)
    starts = batch.document_starts[:1, :count]
    first = int(starts[0, 0]) if model.sequence_axis is None else model.sequence_axis.ranks.rank * batch.tokens.shape[1]
    return batch.tokens[:1, :count], (starts - first).clamp(min=0)


def _mean_over_ranks(values: Mapping[str, Tensor]) -> dict[str, float]:
    if not values:
        return {}
    summed = torch.stack(list(values.values())).double()
    if dist.get_world_size() > 1:
        dist.all_reduce(summed)
    return dict(zip(values, (summed / dist.get_world_size()).tolist(), strict=True))
