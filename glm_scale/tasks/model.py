"""The small model that every structure is tried in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glm_scale.mixers import parse_hybrid
from glm_scale.model import LanguageModel, ModelConfig
from glm_scale.tasks.task import Task

__all__ = ["HEADS", "LAYERS", "WIDTH", "build_model"]

LAYERS, WIDTH, HEADS = 2, 128, 4
_CONVOLUTION = 4


def build_model(task: Task, mixer: str, seed: int, *, conv: bool, mlp: bool) -> LanguageModel:
    """A language model of two layers over the tokens of a task, with weights drawn from `seed`.

    mixer: a spelling, or several joined by "+" for layers that alternate. conv: with a convolution of 4 tokens in front
    of every mixer; mlp: with the gated MLP of every layer. Raises as `parse_mixer`.
    """
    config = ModelConfig(
        vocab_size=task.vocabulary,
        layers=LAYERS,
        width=WIDTH,
        heads=HEADS,
        mixers=tuple(spec.name for spec in parse_hybrid(mixer)),
        conv_width=_CONVOLUTION if conv else 0,
    )
    model = LanguageModel(config, seed)
    if not mlp:
        for block in model.blocks:
            block.mlp_norm, block.mlp = nn.Identity(), _NoMLP()
    return model


class _NoMLP(nn.Module):
    """In the place of an MLP: adds nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)
