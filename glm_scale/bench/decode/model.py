"""A model with random weights, drawn on the device: what it says is of no interest, how fast it says it is."""

from __future__ import annotations

import math
import re

import torch

from glm_scale.layers.projection import is_projection
from glm_scale.model import LanguageModel, ModelConfig

__all__ = ["random_model", "weight_bytes"]


@torch.no_grad()
def random_model(config: ModelConfig, device: torch.device, dtype: torch.dtype, seed: int = 0) -> LanguageModel:
    """Matrices as widely spread as a new model's, vectors as a new model has them, in evaluation mode."""
    with torch.device("meta"):
        model = LanguageModel(config).to(dtype)
    model.to_empty(device=device)
    # One layer of each mixer, and few tokens, tell how parameters begin.
    few = LanguageModel(config.model_copy(update={"layers": len(config.mixers), "vocab_size": 64}), seed=seed)
    like = dict(few.named_parameters())
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in model.named_parameters():
        first = like[re.sub(r"^blocks\.(\d+)", lambda block: f"blocks.{int(block[1]) % len(config.mixers)}", name)]
        spread = first.std().item() if first.dim() == 2 else 0.0
        if spread:
            # A residual projection's weights shrink with the depth, of which the small model has less.
            residual = is_projection(model.get_submodule(name.rpartition(".")[0]), residual=True)
            shrunk = math.sqrt(len(config.mixers) / config.layers) if residual else 1.0
            parameter.normal_(0, spread * shrunk, generator=generator)
        else:
            parameter.copy_(first)
    return model.eval()


def weight_bytes(model: LanguageModel) -> int:
    """Of the weights that one token reads, whatever the number of documents: all but the table of embeddings, of
    which it reads a row."""
    table = model.embedding.weight
    tied = model.head.weight is table
    return sum(p.nbytes for p in model.parameters() if tied or p is not table)
