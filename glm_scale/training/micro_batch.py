"""The sequences of one forward pass: as the data pipeline gives them, and as the device has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from glm_kernels import Packing
from glm_scale.training.host import on_device

__all__ = ["DeviceBatch", "MicroBatch"]


class MicroBatch(Protocol):
    """What is read of a batch, all [B, T]: int64 `tokens` and `labels` (−100: not counted), int32 starts.

    Where a rank has a part of each sequence, `all_document_starts` are those of whole sequences, if the host has them.
    """

    @property
    def tokens(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor: ...
    @property
    def document_starts(self) -> Tensor: ...


@dataclass(frozen=True)
class DeviceBatch:
    """The same on the device. `counted`: how many of the labels count. `packing`: None where nobody asks for it."""

    tokens: Tensor
    labels: Tensor
    document_starts: Tensor
    counted: int
    packing: Packing | None
    all_document_starts: Tensor | None = None

    @classmethod
    def of(cls, batch: MicroBatch, device: torch.device, *, packed: bool) -> Self:
        """Copy a batch of the host; `packed`: attention may want to know its documents, of whole sequences."""
        everywhere: Tensor | None = getattr(batch, "all_document_starts", None)
        whole = batch.document_starts if everywhere is None else everywhere
        return cls(
            on_device(batch.tokens, device),
            on_device(batch.labels, device),
            on_device(batch.document_starts, device),
            int((batch.labels >= 0).sum()),
            Packing.of(whole, device) if packed else None,
            None if everywhere is None else on_device(everywhere, device),
        )

    def keywords(self) -> dict[str, Any]:
        """What a model takes besides the tokens."""
        known = {"packing": self.packing, "all_document_starts": self.all_document_starts}
        given = {name: value for name, value in known.items() if value is not None}
        return {"document_starts": self.document_starts, "labels": self.labels, **given}
