"""The clock of all measurements: seconds of a call under sustained load, and a look at what it computes.

Nothing but large products for seconds makes a GPU draw all the power that it may, and lower its clock; a third of the
time of training goes to work that waits for memory, which draws less. So a copy of half its time follows every call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from glm_kernels.bench.timing import sustained_seconds

__all__ = ["Clock", "NotFiniteError"]

_WARM_UP_SECONDS = 3.0
_WARM_UP_SIZE = 8192
_REST = 0.5
"""Of the time of a call, that a copy takes behind it."""
_COPIED = 1 << 28
"""Bytes, read and written; a part of them for short calls."""
_BANDWIDTH = 3e12
"""Bytes a second of a copy, roughly: any GPU copies long enough."""


class NotFiniteError(RuntimeError):
    """What was measured gives values that are not finite, so that its time means nothing."""


@dataclass(frozen=True)
class Clock:
    """device: "cuda" or "cpu". at_least: seconds that a measurement takes."""

    device: str
    at_least: float

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations."""
        return torch.bfloat16

    def seconds(self, function: Callable[[], Any]) -> float:
        """Of a call. Raises NotFiniteError if it gives values that are not finite."""
        if not all(bool(x.isfinite().all()) for x in tree_leaves(function()) if isinstance(x, Tensor)):
            raise NotFiniteError("it gives values that are not finite")
        return sustained_seconds(function, self.device, self.at_least, self._rest if self.device == "cuda" else None)

    def _rest(self, seconds: float) -> None:
        """Something else for the device, which waits for memory, for `_REST` of so many seconds."""
        size = int(_REST * seconds * _BANDWIDTH / 2)
        for begin in range(0, size, _COPIED):
            count = min(_COPIED, size - begin)
            self._target[:count].copy_(self._source[:count])

    @cached_property
    def _source(self) -> Tensor:
        return torch.ones(_COPIED, dtype=torch.uint8, device=self.device)

    @cached_property
    def _target(self) -> Tensor:
        return torch.empty_like(self._source)

    def random(self, *shape: int, scale: float = 1.0) -> Tensor:
        """A leaf of normal numbers: how much power products take, and so their speed, depends on the values."""
        return (torch.randn(*shape, device=self.device) * scale).to(self.dtype)

    def warm_up(self) -> None:
        """Bring a GPU to the clock and the temperature at which it trains."""
        if self.device == "cuda":
            a, b = (self.random(_WARM_UP_SIZE, _WARM_UP_SIZE) for _ in range(2))
            sustained_seconds(lambda: a @ b, self.device, _WARM_UP_SECONDS, self._rest)
