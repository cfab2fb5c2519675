"""Kernels that tune themselves, as fla's do: all that is tried of one is compiled side by side before it is timed.

Triton's autotuner compiles one configuration after the other, so that the first step of a model with fla's kernels
waits minutes while one core is busy. Compiling needs little Python, so threads share it. What is tried and how it is
chosen stays Triton's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, wraps
from typing import Any


@cache
def compile_side_by_side() -> None:
    """From now on, for all kernels of this process that tune themselves. Once is enough, and more do nothing."""
    from triton.runtime.autotuner import Autotuner

    prune = Autotuner.prune_configs

    @wraps(prune)
    def pruned_and_compiled(self: Any, kwargs: Mapping[str, Any]) -> list[Any]:
        configurations: list[Any] = prune(self, kwargs)
        _compile(self, configurations, kwargs)
        return configurations

    Autotuner.prune_configs = pruned_and_compiled


def _compile(tuner: Any, configurations: list[Any], kwargs: Mapping[str, Any]) -> None:
    from triton.runtime._async_compile import AsyncCompileMode

    # One that cannot be compiled is not reported here but where the autotuner asks for it, as without this.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads, AsyncCompileMode(threads, ignore_errors=True):
        for configuration in configurations:
            options = {**kwargs, "warmup": True, **configuration.all_kwargs()}
            tuner.fn.run(*tuner.nargs.values(), **options)
