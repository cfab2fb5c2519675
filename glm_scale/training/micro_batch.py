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
    """What is read of a batch, all [B, T]: int64 `tokens` and `labels` (−100: not counted), int32 starts."""

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

    @classmethod
    def of(cls, batch: MicroBatch, device: torch.device, *, packed: bool) -> Self:
        """Copy a batch of the host; `packed`: attention may want to know its documents."""
        return cls(
            on_device(batch.tokens, device),
            on_device(batch.labels, device),
            on_device(batch.document_starts, device),
            int((batch.labels >= 0).sum()),
            Packing.of(batch.document_starts, device) if packed else None,
        )

    def keywords(self) -> dict[str, Any]:
        """What a model takes besides the tokens."""
        packing = {} if self.packing is None else {"packing": self.packing}
        return {"document_starts": self.document_starts, "labels": self.labels, **packing}
