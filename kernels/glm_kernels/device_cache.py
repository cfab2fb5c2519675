"""A cache of tensors on devices: tables that follow from shapes alone are made once and kept beyond the call."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from typing import Any, TypeVar

import torch

R = TypeVar("R")


def kept_on_device(most: int) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Remembers the last `most` results of a function of positional, hashable arguments, of which one is a device.

    A CUDA graph takes back what was allocated while it was warmed up or captured. So results are made in a thread of
    their own, whose allocations are no graph's, and waited for, so that every stream may read them; and what has to
    be made while a graph is captured is part of that graph, and not remembered.
    """

    def decorate(make: Callable[..., R]) -> Callable[..., R]:
        known: dict[tuple[Any, ...], R] = {}

        @wraps(make)
        def made_once(*arguments: Any) -> R:
            if arguments in known:
                return known[arguments]
            device = next(x for x in arguments if isinstance(x, torch.device))
            if device.type != "cuda":
                result = _made_for_all(make, arguments)
            elif torch.cuda.is_current_stream_capturing():
                return make(*arguments)
            else:
                with ThreadPoolExecutor(1) as thread:
                    result = thread.submit(_on_gpu, device, make, arguments).result()
            known[arguments] = result
            while len(known) > most:
                known.pop(next(iter(known)), None)
            return result

        return made_once

    return decorate


def _on_gpu(device: torch.device, make: Callable[..., R], arguments: tuple[Any, ...]) -> R:
    with torch.cuda.device(device):
        result = _made_for_all(make, arguments)
        torch.cuda.current_stream().synchronize()
    return result


@torch.inference_mode(False)
def _made_for_all(make: Callable[..., R], arguments: tuple[Any, ...]) -> R:
    """Whoever asks first may do so in inference mode; who comes later may need gradients."""
    return make(*arguments)
