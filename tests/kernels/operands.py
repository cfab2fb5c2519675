"""Random operands for operator tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypedDict, TypeVar

import torch
from torch import Tensor

from glm_kernels import Pattern, RecurrenceState

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""Where Triton's kernels run: without a GPU in the interpreter."""

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
"""q, k, v and a gate."""
T = TypeVar("T")


class Packing(TypedDict, total=False):
    """What says where documents begin; without either of them, every row is one."""

    cu_seqlens: Tensor
    document_starts: Tensor


def each(change: Callable[[T], Tensor], inputs: Iterable[T]) -> Inputs:
    """The same of every input."""
    q, k, v, gate = map(change, inputs)
    return q, k, v, gate


def rows_of(inputs: Inputs, begin: int, end: int) -> Inputs:
    return each(lambda x: x[:, begin:end], inputs)


def leaves(*shapes: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def operands(
    batch: int,
    length: int,
    heads: int = 2,
    key_dim: int = 4,
    value_dim: int = 3,
    *,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    seed: int = 0,
) -> Inputs:
    """Leaves q, k `[B, T, H, K]`, v `[B, T, H, V]` and a gate `[B, T, H]`."""
    keys, values = (batch, length, heads, key_dim), (batch, length, heads, value_dim)
    made = leaves(keys, keys, values, keys[:3], seed=seed, dtype=torch.promote_types(dtype, torch.float32))
    return each(lambda x: x.detach().to(device, dtype).requires_grad_(), made)


def packing_of(kind: str, batch: int, length: int, cuts: int, seed: int = 0, device: str = "cpu") -> Packing:
    """The keyword that says where documents begin: none, `document_starts` or `cu_seqlens`."""
    if kind == "none":
        return {}
    if kind == "cu_seqlens":
        return {"cu_seqlens": packed_bounds(length, cuts, seed).to(device)}
    return {"document_starts": packed_starts(batch, length, cuts, seed).to(device)}


def packed_starts(batch: int, length: int, cuts: int, seed: int = 0) -> Tensor:
    """int32 `[batch, length]` document starts with up to `cuts` random cuts in each row."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.zeros(batch, length, dtype=torch.int32)
    for row in starts:
        for cut in torch.randint(0, length, (cuts,), generator=generator).sort().values.tolist():
            row[cut:] = cut
    return starts


def packed_bounds(length: int, cuts: int, seed: int = 0) -> Tensor:
    """int32 cu_seqlens with `cuts` random cuts, empty documents included."""
    generator = torch.Generator().manual_seed(seed)
    inner = torch.randint(0, length + 1, (cuts,), generator=generator)
    return torch.cat([torch.tensor([0]), inner, torch.tensor([length])]).sort().values.int()


def random_state(
    pattern: Pattern, positions: list[int], heads: int, key_dim: int, value_dim: int, seed: int = 0
) -> RecurrenceState:
    """A state with the given positions and random rows in its slots."""
    slots = max(map(pattern.slot_count, positions))
    k, y = leaves((len(positions), heads, slots, key_dim), (len(positions), heads, slots, value_dim), seed=seed)
    return RecurrenceState(k, y, torch.tensor(positions))


def kernel_state(pattern: Pattern, positions: list[int]) -> RecurrenceState:
    """`random_state` of one head with K = 12 and V = 20 for kernels: leaves in float32 on their device."""
    made = random_state(pattern, positions, 1, 12, 20)
    k, y = (x.detach().float().to(DEVICE).requires_grad_() for x in made[:2])
    return RecurrenceState(k, y, made.position.to(DEVICE))


def live_slots(pattern: Pattern, state: RecurrenceState) -> Tensor:
    """bool `[N, 1, S, 1]`: which slots of a state mean anything."""
    live = torch.zeros(len(state.position), state.k.shape[2], dtype=torch.bool)
    for n, position in enumerate(state.position.tolist()):
        rows = pattern.rows_in_slots(position)
        live[n, : len(rows)] = rows >= 0
    return live[:, None, :, None]


def values_and_gradients(outputs: Sequence[Tensor], inputs: Sequence[Tensor], seed: int = 1) -> list[Tensor]:
    """The outputs, and the gradients of a random linear function of them."""
    generator = torch.Generator().manual_seed(seed)
    directions = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device) for x in outputs]
    loss: Any = sum((x.double() * direction).sum() for x, direction in zip(outputs, directions, strict=True))
    gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [*outputs, *(torch.zeros_like(x) if g is None else g for x, g in zip(inputs, gradients, strict=True))]
