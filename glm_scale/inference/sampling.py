"""How the next token is drawn, on the device that has the logits and without waiting for it."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from glm_data.settings import Settings

__all__ = ["Sampling", "draw", "random_numbers"]


class Sampling(Settings):
    """How the next token is drawn: logits / temperature, cut to the `top_k` likeliest tokens, then to the fewest
    whose probabilities reach `top_p` (nucleus sampling, Holtzman et al. 2019, arXiv 1904.09751). Temperature 0 takes
    the likeliest token."""

    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_k: Annotated[int, Field(ge=1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


def random_numbers(seed: int, tokens: int, documents: int) -> Tensor:
    """fp32 `[tokens, documents]` in [0, 1): all that drawing so many tokens needs, the same for every device."""
    return torch.rand(tokens, documents, generator=torch.Generator().manual_seed(seed))


def draw(logits: Tensor, sampling: Sampling, chance: Tensor) -> Tensor:
    """int64 `[B]`: a token for each document, of logits `[B, vocab]`; `chance [B]` in [0, 1) decides which.

    It is the first whose probability, added to those before it, exceeds `chance`: the same on every device up to
    rounding.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    logits, tokens = logits.float() / sampling.temperature, None
    vocabulary = logits.shape[-1]
    if sampling.top_p < 1 or (sampling.top_k or vocabulary) < vocabulary:
        logits, tokens = logits.topk(min(sampling.top_k or vocabulary, vocabulary))
    kept = logits.softmax(-1)
    if sampling.top_p < 1:
        before = kept.cumsum(-1) - kept
        kept = kept.masked_fill(before >= sampling.top_p, 0)  # the likeliest token has 0 before it: never cut
    sums = kept.cumsum(-1, dtype=torch.float64)
    found = torch.searchsorted(sums, chance[:, None].double() * sums[:, -1:], right=True)
    return (found if tokens is None else tokens.gather(-1, found)).squeeze(-1)
