"""The same bits from the same run on the same layout."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

__all__ = ["deterministic"]


@contextlib.contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """While active and wanted, operations whose result depends on scheduling are replaced or refused."""
    # torch.utils.deterministic is a module that acts as an object, which type checkers do not see.
    settings: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    if wanted:
        # cuBLAS is deterministic with buffers of its own for every stream; it reads this when it is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        # The switch would also fill all fresh memory, which does cost.
        settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        settings.fill_uninitialized_memory = before[1]
