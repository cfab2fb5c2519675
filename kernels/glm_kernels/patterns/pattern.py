"""Patterns: which past rows a row may read. The single source for reference, kernels, caches, shards and theory.

Two kinds only. A `Lifetime` gives every key a last reader: windows, dense recurrences and the cache-efficient
lattices of arXiv 2605.31367. With `Offsets` a row reads i − f(k). Positions here count from 0 inside a document;
the formulas of the paper count from 1. Tables are made on the CPU whatever the default device: they are cached.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from glm_kernels.patterns.growth import BEYOND, Growth, PatternError, pointer


@dataclass(frozen=True)
class Pattern(ABC):
    """Which past rows of its document a row may read. Equal spellings are equal patterns."""

    spelling: str

    def __str__(self) -> str:
        return self.spelling

    @abstractmethod
    def reads(self, position: int) -> list[int]:
        """The positions that the row at `position` reads, ascending. The definition: obvious, not fast."""

    @abstractmethod
    def read_counts(self, length: int) -> Tensor:
        """int64 `[length]`: how many rows each row of a document of `length` rows reads."""

    @abstractmethod
    def live_rows(self, position: int) -> Tensor:
        """int64, ascending: the rows before `position` that rows from `position` on may still read."""

    @abstractmethod
    def slots(self, length: int) -> Tensor:
        """int64 `[length]`: the cache slot that holds each row while it is live; no two live rows share one."""

    def read_matrix(self, length: int) -> Tensor:
        """bool `[length, length]`: entry (i, j) says whether row i reads row j."""
        matrix = torch.zeros(length, length, dtype=torch.bool, device="cpu")
        for position in range(length):
            matrix[position, self.reads(position)] = True
        return matrix

    def cache_size(self, length: int) -> int:
        """How many rows a decoder holds once `length` tokens are seen."""
        return len(self.live_rows(length))

    def slot_count(self, length: int) -> int:
        """How many slots a cache needs that has held the live rows of every prefix of `length` tokens."""
        return _slot_count(self, length)

    def rows_in_slots(self, position: int) -> Tensor:
        """int64 `[slot_count(position)]`: the live row each slot holds when `position` tokens are seen, −1 if none."""
        live = self.live_rows(position)
        rows = torch.full((self.slot_count(position),), -1, device="cpu")
        rows[self.slots(position)[live]] = live
        return rows


@dataclass(frozen=True)
class Lifetime(Pattern):
    """Row i reads key j exactly while j < i ≤ last_reader(j).

    Every lifetime pattern is a list of levels (period, life): a position divisible by `period` (counted from 1)
    lives `life` rows, and the longest life wins. Source: arXiv 2605.31367 for the sets, the interval form is ours.
    """

    @abstractmethod
    def levels(self, length: int) -> tuple[tuple[int, int], ...]:
        """(period, life) ascending, up to the first life of at least `length` rows."""

    def last_readers(self, length: int) -> Tensor:
        """int64 `[length]`: the last row that reads each key; at least `length` where the true one is later."""
        return _last_readers(self, length)

    def read_counts(self, length: int) -> Tensor:
        # Row i reads the keys that began before it, less those whose last reader came before it.
        ended = torch.bincount((self.last_readers(length) + 1).clamp_(max=length), minlength=length + 1)
        return torch.arange(length, device="cpu") - ended.cumsum(0)[:length]

    def live_rows(self, position: int) -> Tensor:
        return (self.last_readers(position) >= position).nonzero().squeeze(1)

    def slots(self, length: int) -> Tensor:
        horizon = 1 << max(length - 1, 0).bit_length()  # tables are made for powers of two, so few are made
        return _lowest_free_slots(self, horizon)[:length]


@dataclass(frozen=True)
class Window(Lifetime):
    """`window:w`, the w-th order recurrence: a row reads the w rows before it."""

    width: int

    def reads(self, position: int) -> list[int]:
        return list(range(max(0, position - self.width), position))

    def levels(self, length: int) -> tuple[tuple[int, int], ...]:
        return ((1, self.width),)


@dataclass(frozen=True)
class Dense(Lifetime):
    """`dense`: a row reads every row before it."""

    def reads(self, position: int) -> list[int]:
        return list(range(position))

    def levels(self, length: int) -> tuple[tuple[int, int], ...]:
        return ((1, BEYOND),)

    def slots(self, length: int) -> Tensor:
        return torch.arange(length, device="cpu")


@dataclass(frozen=True)
class Lattice(Lifetime):
    """`lattice:f`, the cache-efficient pattern of f (arXiv 2605.31367).

    With a_0 = 1 and a_{k+1} = a_k ⌈(f(k+1) − f(k)) / a_k⌉, row i (counted from 1) reads the set
    S_i = {a_k ⌈(i − f(k)) / a_k⌉ : f(k) < i}.
    """

    growth: Growth = field(compare=False, repr=False)

    def _spacings(self, largest: int) -> list[tuple[int, int]]:
        """(a_k, f(k)) up to the first f(k) above `largest`."""
        values = self.growth.terms(largest)
        spacing, pairs = 1, [(1, values[0])]
        for before, value in pairwise(values):
            spacing *= -((before - value) // spacing)
            pairs.append((spacing, value))
        return pairs

    def reads(self, position: int) -> list[int]:
        i = position + 1
        return sorted({a * -((f - i) // a) - 1 for a, f in self._spacings(i) if f < i})

    def levels(self, length: int) -> tuple[tuple[int, int], ...]:
        # A later pair of the same spacing lives longer, so it replaces the earlier one.
        return tuple(dict(self._spacings(length)).items())


@dataclass(frozen=True)
class Offsets(Pattern):
    """`offsets:f`: row i reads i − f(k) for every k. Any row may be read at any later time: the cache is O(n)."""

    growth: Growth = field(compare=False, repr=False)

    def offsets(self, length: int) -> Tensor:
        """int64, ascending: the distances f(k) ≤ length − 1 that occur in a document of `length` rows."""
        return torch.tensor([f for f in self.growth.terms(length) if f < length], dtype=torch.int64, device="cpu")

    def reads(self, position: int) -> list[int]:
        return sorted(position - f for f in self.growth.terms(position) if f <= position)

    def read_counts(self, length: int) -> Tensor:
        return torch.searchsorted(self.offsets(length), torch.arange(length, device="cpu"), right=True)

    def live_rows(self, position: int) -> Tensor:
        return torch.arange(position, device="cpu")

    def slots(self, length: int) -> Tensor:
        return torch.arange(length, device="cpu")


@lru_cache(maxsize=128)
def _last_readers(pattern: Lifetime, length: int) -> Tensor:
    position = torch.arange(1, length + 1, device="cpu")
    life = torch.zeros(length, dtype=torch.int64, device="cpu")
    for period, lives in pattern.levels(length):
        life[position % period == 0] = min(lives, BEYOND)
    return position - 1 + life


@lru_cache(maxsize=1024)
def _slot_count(pattern: Pattern, length: int) -> int:
    if length == 0:
        return 0
    # Compilers ask as well, while tensors have no values for them. That is so in their thread alone.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: int(pattern.slots(length).max()) + 1).result()


@lru_cache(maxsize=32)
def _lowest_free_slots(pattern: Lifetime, length: int) -> Tensor:
    """Every row takes the lowest slot that is free when it is written, after it has read its own sources."""
    slots = torch.empty(length, dtype=torch.int64, device="cpu")
    leaving: list[tuple[int, int]] = []
    free: list[int] = []
    opened = 0
    for row, last in enumerate(pattern.last_readers(length).tolist()):
        while leaving and leaving[0][0] <= row:
            heapq.heappush(free, heapq.heappop(leaving)[1])
        if not free:
            heapq.heappush(free, opened)
            opened += 1
        slot = heapq.heappop(free)
        heapq.heappush(leaving, (last, slot))
        slots[row] = slot
    return slots


def _parse_window(spelling: str, argument: str) -> Pattern:
    if not argument.isdecimal() or int(argument) < 1:
        column = spelling.index(":") + 1 if ":" in spelling else len(spelling)
        found = repr(argument) if argument else "nothing"
        raise PatternError(
            f"{spelling!r}: window needs a whole number of rows ≥ 1, as in window:64, found {found}\n"
            + pointer(spelling, column)
        )
    return Window(f"window:{int(argument)}", int(argument))


def _parse_dense(spelling: str, argument: str) -> Pattern:
    if argument or ":" in spelling:
        raise PatternError(f"{spelling!r}: dense takes no argument\n{pointer(spelling, len('dense'))}")
    return Dense("dense")


def _growth(spelling: str, argument: str) -> Growth:
    try:
        return Growth(argument)
    except PatternError as error:
        raise PatternError(f"{spelling!r}: {error}") from None


def _parse_lattice(spelling: str, argument: str) -> Pattern:
    growth = _growth(spelling, argument)
    if growth(0) != 1:
        raise PatternError(
            f"{spelling!r}: f(0) = {growth(0)}, but a lattice needs f(0) = 1: the row before must be readable, "
            "or the sets of successive rows do not nest\n" + pointer(spelling, spelling.index(":") + 1)
        )
    return Lattice(f"lattice:{growth.text}", growth)


def _parse_offsets(spelling: str, argument: str) -> Pattern:
    growth = _growth(spelling, argument)
    return Offsets(f"offsets:{growth.text}", growth)


_FAMILIES: dict[str, Callable[[str, str], Pattern]] = {
    "window": _parse_window,
    "dense": _parse_dense,
    "lattice": _parse_lattice,
    "offsets": _parse_offsets,
}


@lru_cache(maxsize=256)
def parse_pattern(spelling: str) -> Pattern:
    """The pattern of a spelling: `window:64`, `dense`, `lattice:2^k`, `offsets:k^2+1`, … for any increasing f of k.

    Raises PatternError that names the spelling, shows the place, and says what is allowed.
    """
    family, _, argument = spelling.strip().partition(":")
    family, argument = family.strip(), argument.strip()
    if family not in _FAMILIES:
        raise PatternError(
            f"unknown pattern {spelling!r}; known are window:w, dense, lattice:f and offsets:f, "
            "as in window:64, lattice:2^k, offsets:k^2+1"
        )
    return _FAMILIES[family](spelling.strip(), argument)
