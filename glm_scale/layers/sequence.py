"""Sequence: where the documents of a batch of packed sequences begin, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from glm_kernels import Packing
from glm_scale.layers.rotary import Rotary, Rotation
from glm_scale.parallel.axis import SequenceAxis
from glm_scale.parallel.sequence.exchange import gathered_tokens


@dataclass(frozen=True)
class Sequence:
    """What every layer needs to know about a batch of sequences besides their contents; made once per batch.

    `document_starts`: int32 `[B, T]`, where in its sequence each token's document starts; None if every sequence is one
    document. `packing`: documents of whole sequences for attention on a GPU, if the host knows them. `positions`: int64
    `[B or 1, T]` within the document. `rotation`: the rotary angles of `positions`.

    With an `axis` the T tokens are those of one of its ranks. Then starts and positions are still those of whole
    sequences, whose document starts are `all_document_starts`.
    """

    document_starts: Tensor | None
    positions: Tensor
    rotation: Rotation
    axis: SequenceAxis | None = None
    all_document_starts: Tensor | None = None
    packing: Packing | None = None

    @classmethod
    def of(
        cls,
        length: int,
        rotary: Rotary,
        device: torch.device,
        document_starts: Tensor | None = None,
        axis: SequenceAxis | None = None,
        packing: Packing | None = None,
        all_document_starts: Tensor | None = None,
    ) -> Sequence:
        """Sequences of `length` tokens, packed as `document_starts` says.

        With an axis its ranks tell one another of theirs, if `all_document_starts` are not given.
        """
        positions = torch.arange(length, device=device)[None]
        everywhere = document_starts
        if axis is not None:
            positions = positions + axis.ranks.rank * length
            everywhere = all_document_starts
            if document_starts is not None and everywhere is None:
                everywhere = gathered_tokens(document_starts, axis.ranks)
        if document_starts is not None:
            positions = positions - document_starts
        return cls(document_starts, positions, rotary(positions), axis, everywhere, packing)
