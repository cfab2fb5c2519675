"""A small product of matrices, by Triton: it takes the compiler, the launcher and the tensor cores."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["product_is_right"]

_SIZE = 32


@triton.jit
def _product(a, b, c, N: tl.constexpr):  # type: ignore[no-untyped-def]
    rows = tl.arange(0, N)[:, None]
    columns = tl.arange(0, N)[None, :]
    places = rows * N + columns
    tl.store(c + places, tl.dot(tl.load(a + places), tl.load(b + places)))


def product_is_right(device: str) -> bool:
    """Whether A B comes out exactly. The factors are small integers, so that no rounding excuses a difference."""
    numbers = torch.arange(_SIZE * _SIZE).reshape(_SIZE, _SIZE)
    a, b = numbers % 13 - 6, numbers % 7 - 3
    c = torch.empty(_SIZE, _SIZE, device=device)
    _product[(1,)](a.to(device, torch.float16), b.to(device, torch.float16), c, _SIZE)
    return torch.equal(c.cpu(), (a @ b).float())
