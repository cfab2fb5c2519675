"""Products in pieces where no GPU reads another's memory: torch's own stand-ins, which exchange first and multiply
then."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch.distributed import _symmetric_memory as symmetric_memory

STAND_INS: dict[str, Callable[..., Any]] = {
    "fused_all_gather_matmul": symmetric_memory._fused_all_gather_matmul_fallback,
    "fused_matmul_reduce_scatter": symmetric_memory._fused_matmul_reduce_scatter_fallback,
}


@contextlib.contextmanager
def played() -> Iterator[Counter[str]]:
    """How often each was run."""
    runs: Counter[str] = Counter()

    def counted(name: str, stand_in: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            runs[name] += 1
            return stand_in(*arguments, **options)

        return run

    library = torch.library.Library("symm_mem", "IMPL", "CPU")
    for name, stand_in in STAND_INS.items():
        library.impl(name, counted(name, stand_in))
    try:
        with symmetric_memory._test_mode(), mock.patch("torch.distributed.is_nccl_available", return_value=True):
            yield runs
    finally:
        library._destroy()
