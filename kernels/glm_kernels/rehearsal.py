"""Operators run on zeros while a compiler is at work, so that their kernels are compiled by the time it is done.

Torch's compiler asks for the shapes of an operator's results seconds before the code that it makes calls the operator,
and only then would Triton begin to compile the operator's kernels, one after the other. That question has all that the
kernels are compiled for; so the operator is called at once, in a thread: most of compiling needs no Python.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from threading import Thread
from typing import Any

import torch
from torch import Tensor

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Known:
    """What is known of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def zeros(self, memory: Tensor) -> Tensor:
        """In memory that others have, too: operators write to none of what they are given."""
        return memory[: self.bytes].view(self.dtype).view(self.shape)


def rehearse(run: Callable[..., Any], arguments: tuple[Any, ...], device_type: str = "cuda") -> Thread | None:
    """Have a thread call run(*arguments) with zeros for tensors, once for each kind of arguments; it is returned.

    None, and nothing happens, where tensors are elsewhere, as nothing is compiled on a CPU, or their shapes are not
    yet known. What fails will fail again, and be told, when it is called for its result.
    """
    tensors = [x for x in arguments if isinstance(x, Tensor)]
    elsewhere = any(x.device.type != device_type for x in tensors)
    # Asking a symbol for its value would have the compiler make code for that value alone.
    if elsewhere or not all(type(size) is int for x in tensors for size in x.shape):
        return None
    return _rehearsal(run, tuple(_known(x) if isinstance(x, Tensor) else x for x in arguments))


def _known(x: Tensor) -> _Known:
    return _Known(tuple(x.shape), x.dtype, x.device)


@lru_cache(maxsize=1024)
def _rehearsal(run: Callable[..., Any], arguments: tuple[Any, ...]) -> Thread:
    thread = Thread(target=_call, args=(run, arguments), name="rehearsal")
    thread.start()
    return thread


def _call(run: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        tensors = [x for x in arguments if isinstance(x, _Known)]
        device = tensors[0].device
        with _current(device):
            memory = torch.zeros(max(x.bytes for x in tensors), dtype=torch.uint8, device=device)
            run(*(x.zeros(memory) if isinstance(x, _Known) else x for x in arguments))
    except Exception as error:
        _logger.debug("rehearsing %s: %s", run, error)


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Triton's kernels are started on the GPU that is current in the thread."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
