"""Small work between products, which a compiler makes one kernel of while decoding on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor

R = TypeVar("R")


def in_one_kernel(function: Callable[..., R], x: Tensor, *others: Any) -> R:
    """function(x, *others) for x `[B, T, …]`, compiled if it is one token of each document on a GPU.

    `function` takes tensors and numbers alone, so that all layers share what is compiled.
    """
    if x.is_cuda and x.shape[1] == 1 and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _compiled(function)(x, *others)
    return function(x, *others)


@lru_cache(maxsize=16)
def _compiled(function: Callable[..., R]) -> Callable[..., R]:
    return torch.compile(function, dynamic=False)
