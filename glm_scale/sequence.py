"""Sequence: where the documents of a batch of packed rows begin, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from glm_scale.layers.rotary import Rotary, Rotation


@dataclass(frozen=True)
class Sequence:
    """What every layer needs to know about a batch of rows besides their contents; made once per batch.

    `document_starts`: int32 `[B, T]`, the row index where each token's document starts; None if every row is one
    document. `positions`: int64 `[B or 1, T]` within the document. `rotation`: the rotary angles of `positions`.
    """

    document_starts: Tensor | None
    positions: Tensor
    rotation: Rotation

    @classmethod
    def of(cls, length: int, rotary: Rotary, device: torch.device, document_starts: Tensor | None = None) -> Sequence:
        """The sequence of rows of `length` tokens, packed as `document_starts` says."""
        positions = torch.arange(length, device=device)[None]
        if document_starts is not None:
            positions = positions - document_starts
        return cls(document_starts, positions, rotary(positions))
