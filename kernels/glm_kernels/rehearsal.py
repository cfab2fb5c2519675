"""Operators run on zeros while a compiler is at work, so that their kernels are compiled by the time it is done.

Torch's compiler asks for the shapes of an operator's results seconds before the code that it makes calls the operator,
and only then would Triton begin to compile the operator's kernels, one after the other. That question has all that the
kernels are compiled for; so the operator is called at once, in a thread: most of compiling needs no Python.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from threading import Thread
from typing import Any

import torch
from torch import Tensor

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Zeros:
    """What is known of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def tensor(self) -> Tensor:
        return torch.zeros(self.shape, dtype=self.dtype, device=self.device)


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
    return _rehearsal(run, tuple(_zeros_like(x) if isinstance(x, Tensor) else x for x in arguments))


def _zeros_like(x: Tensor) -> _Zeros:
    return _Zeros(tuple(x.shape), x.dtype, x.device)


@lru_cache(maxsize=1024)
def _rehearsal(run: Callable[..., Any], arguments: tuple[Any, ...]) -> Thread:
    thread = Thread(target=_call, args=(run, arguments), name="rehearsal")
    thread.start()
    return thread


def _call(run: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        device = next(x.device for x in arguments if isinstance(x, _Zeros))
        with torch.cuda.device(device) if device.type == "cuda" else torch.device(device):
            run(*(x.tensor() if isinstance(x, _Zeros) else x for x in arguments))
    except Exception as error:
        _logger.debug("rehearsing %s: %s", run, error)
