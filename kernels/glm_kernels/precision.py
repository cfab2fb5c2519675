"""Dtypes of the operators: what autocast makes of operands, and what sums over them are kept in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_ROUNDED = (torch.bfloat16, torch.float16, torch.float32)
"""Dtypes that autocast casts."""


def accumulation_dtype(operands: torch.dtype) -> torch.dtype:
    """What sums over operands of this dtype are kept in: float32, or float64 for float64."""
    return torch.promote_types(operands, torch.float32)


def autocast(q: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The operands of any shapes in autocast's dtype, where it is on for the device of q.

    A gate in float32 stays so, since a decay close to one needs its digits, and float64 is left alone.
    """
    if not torch.is_autocast_enabled(q.device.type):
        return q, k, v, gate
    dtype = torch.get_autocast_dtype(q.device.type)
    q, k, v = (x.to(dtype) if x.dtype in _ROUNDED else x for x in (q, k, v))
    return q, k, v, gate.to(dtype) if gate.dtype in _ROUNDED[:2] else gate


@contextmanager
def without_autocast(device: torch.device) -> Iterator[None]:
    """Switches autocast off on a device, where it would round what an operator means to keep in float32."""
    if not torch.is_autocast_enabled(device.type):
        yield
        return
    with torch.autocast(device.type, enabled=False):
        yield
