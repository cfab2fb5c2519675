"""What the matrix of GPU tests consists of: every pair of settings together at least once, and operands for it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations, product

import torch
from torch import Tensor

from glm_kernels import RecurrenceState, parse_pattern
from tests.kernels.operands import Inputs, Packing, each

EXTREMES = ("input", "past", "sharp", "one key")
FACTORS: dict[str, Sequence] = {
    "operator": (
        "lattice:2^k", "lattice:k^2+1", "window:64", "window:5", "dense", "offsets:2^k", "offsets:k^2+1", "ssm",
    ),
    "length": (1, 63, 64, 65, 1000, 4096),
    "widths": ((16, 16), (64, 64), (128, 128), (256, 256), (80, 100), (100, 80), (16, 256), (256, 16), (64, 128)),
    "dtype": (torch.bfloat16, torch.float16, torch.float32),
    "packing": ("rows", "document_starts", "cu_seqlens"),
    "values": ("random", "heads", *EXTREMES),
    "strided": (False, True),
    "position": (None, 0, 37, 300),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One call: its shape, how documents lie in it, what kind of numbers, where its initial states stand."""

    operator: str
    length: int
    widths: tuple[int, int]
    dtype: torch.dtype
    packing: str
    values: str
    strided: bool
    position: int | None
    """Tokens before the call; documents of `cu_seqlens` stand at different ones. None: no initial state."""

    @property
    def batch(self) -> int:
        return 1 if self.packing == "cu_seqlens" else 2

    @property
    def heads(self) -> int:
        return 2 if self.length > 1000 else 3

    def __str__(self) -> str:
        parts = [
            self.operator, f"T{self.length}", f"K{self.widths[0]}", f"V{self.widths[1]}",
            str(self.dtype).removeprefix("torch."), self.packing, self.values,
        ]  # fmt: skip
        parts += ["strided"] if self.strided else []
        return " ".join(parts + ([] if self.position is None else [f"after {self.position}"]))


def _covering() -> list[Case]:
    """Cases that hold every pair of settings at least once: greedy, from random candidates; always the same."""
    choose = random.Random(0)
    names = list(FACTORS)
    sizes = {name: range(len(FACTORS[name])) for name in names}
    missing = {(a, x, b, y) for a, b in combinations(names, 2) for x, y in product(sizes[a], sizes[b])}
    found = []
    while missing:
        a, x, b, y = choose.choice(sorted(missing))
        best: tuple[int, dict[str, int]] = (0, {})
        for _ in range(60):
            candidate = {name: choose.randrange(len(FACTORS[name])) for name in names} | {a: x, b: y}
            new = sum((p, candidate[p], q, candidate[q]) in missing for p, q in combinations(names, 2))
            best = max(best, (new, candidate), key=lambda one: one[0])
        candidate = best[1]
        missing -= {(p, candidate[p], q, candidate[q]) for p, q in combinations(names, 2)}
        found.append(Case(**{name: FACTORS[name][candidate[name]] for name in names}))
    return found


_PLAIN = Case("", 130, (64, 64), torch.bfloat16, "rows", "random", False, None)
_MANY_LIVE_ROWS = [
    # How many rows are live depends on how long ago the document began; kernels are configured by that number.
    replace(_PLAIN, operator=operator, length=length, dtype=dtype, position=position)
    for operator, length, position in (
        ("lattice:2^k", 130, 100_000), ("lattice:k^2+1", 130, 8_200), ("lattice:k^2+1", 130, 30_000),
        ("lattice:k^2+1", 130, 200_000), ("lattice:k^2+1", 130, 1_000_000), ("window:200", 1000, None),
        ("window:1000", 1500, None), ("lattice:3^k", 1000, None), ("lattice:floor(k*log(k+1))+k+1", 1000, None),
        ("offsets:3^k", 1000, None), ("offsets:k+1", 130, None),
    )
    for dtype in (torch.bfloat16, torch.float32)
]  # fmt: skip
_FULL_SIZE = [
    replace(_PLAIN, operator=operator, length=4096, widths=(128, 128), packing=packing)
    for operator in FACTORS["operator"]
    for packing in FACTORS["packing"]
]

_EXTREME = [
    replace(_PLAIN, operator=operator, length=length, widths=(128, 128), values=values)
    for operator in FACTORS["operator"]
    for values in EXTREMES
    for length in (1000, 4096)
]

CASES: list[Case] = list(dict.fromkeys(_FULL_SIZE[::3] + _covering() + _MANY_LIVE_ROWS + _FULL_SIZE + _EXTREME))
assert len({f.name for f in fields(Case)} ^ set(FACTORS)) == 0


@dataclass
class Operands:
    """Leaves of one call; the gate is d, or the log decay of `ssm`. The state is k and y, or h of `ssm`."""

    inputs: Inputs
    state: list[Tensor]
    positions: Tensor | None
    packing: Packing
    dy: Tensor

    def state_argument(self, operator: str) -> RecurrenceState | Tensor | None:
        if not self.state:
            return None
        if operator == "ssm":
            return self.state[0]
        assert self.positions is not None
        return RecurrenceState(self.state[0], self.state[1], self.positions)


def make(case: Case, seed: int, device: str) -> Operands:
    """Fresh random operands, rounded to the dtype of the case and then taken as exact."""
    torch.manual_seed(seed)
    (key_dim, value_dim), shape = case.widths, (case.batch, case.length, case.heads)
    q, k, v = (torch.randn(*shape, width, device=device) for width in (key_dim, key_dim, value_dim))
    gate = torch.randn(*shape, device=device)
    _shape_values(case, q, k, gate)
    if case.operator == "ssm":
        gate = -gate.abs() / 4
    dy = torch.randn_like(v)
    packing, carried = _documents(case, random.Random(seed), device)
    state, positions = _state(case, carried, device)
    *rounded, dy = (_laid_out(x.to(case.dtype), case.strided) for x in (q, k, v, gate, dy))
    return Operands(each(Tensor.requires_grad_, rounded), state, positions, packing, dy)


def _shape_values(case: Case, q: Tensor, k: Tensor, gate: Tensor) -> None:
    key_dim, heads = q.shape[3], q.shape[2]
    if case.values == "heads":
        share = torch.arange(heads, device=q.device) / heads
        q *= (0.3 + 3 * share)[:, None]
        gate += 4 * share - 2
    elif case.values == "input":
        gate.fill_(30)
    elif case.values == "past":
        gate.fill_(-30)
    elif case.values == "sharp":
        q *= 30
    elif case.values == "one key":
        # All weight on one old key, wherever a row may read it.
        strength = (40 * key_dim**0.5) ** 0.5
        direction = torch.nn.functional.normalize(torch.randn(key_dim, device=q.device), dim=0)
        q.mul_(0.1).add_(strength * direction)
        k[:, 31::97] = strength * direction
        gate.fill_(0)


def _laid_out(x: Tensor, strided: bool) -> Tensor:
    """The same values, if `strided` as rows cut from a longer buffer: batch strides are not what the shape says."""
    if not strided:
        return x
    batch, length, *rest = x.shape
    buffer = torch.full((batch, length + 7, *rest), torch.nan, dtype=x.dtype, device=x.device)
    buffer[:, 3 : 3 + length] = x
    return buffer[:, 3 : 3 + length].detach()


def _documents(case: Case, draw: random.Random, device: str) -> tuple[Packing, int]:
    """Documents of 1 to 300 tokens, and how many of them carry a state."""
    if case.packing == "rows":
        return {}, case.batch
    starts = torch.zeros(case.batch, case.length, dtype=torch.int32)
    bounds = [0]
    for row in starts:
        bounds = [0]
        while bounds[-1] < case.length:
            row[bounds[-1] :] = bounds[-1]
            bounds.append(min(case.length, bounds[-1] + draw.randint(1, 300)))
    if case.packing == "document_starts":
        return {"document_starts": starts.to(device)}, case.batch
    return {"cu_seqlens": torch.tensor(bounds, dtype=torch.int32, device=device)}, len(bounds) - 1


def _state(case: Case, carried: int, device: str) -> tuple[list[Tensor], Tensor | None]:
    if case.position is None:
        return [], None
    key_dim, value_dim = case.widths
    if case.operator == "ssm":
        return [torch.randn(carried, case.heads, key_dim, value_dim, device=device).requires_grad_()], None
    pattern = parse_pattern(case.operator)
    positions = [max(0, case.position - 11 * n) for n in range(carried)]
    slots = pattern.slot_count(positions[0])
    # Keys of a state are keys of earlier rows, in their dtype; outputs are kept as they were before rounding.
    k, y = (torch.randn(carried, case.heads, slots, width, device=device) for width in case.widths)
    k = k.to(case.dtype).float()
    return [k.requires_grad_(), y.requires_grad_()], torch.tensor(positions, device=device)
