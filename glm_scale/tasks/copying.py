"""`copy` and `selective_copy`: saying again what was said, all of it or what counts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from glm_scale.tasks.task import SEPARATOR, Task, TaskError, distinct, whole_number

__all__ = ["Copy", "SelectiveCopy", "read_copy", "read_selective_copy"]

SYMBOLS = 31
"""Tokens 1 to 31 are symbols."""

USUAL_LENGTH = 48
_LONGEST = 4096


@dataclass(frozen=True)
class Copy(Task):
    """x_1 … x_n 0 x_1 … x_n; the second half is asked.

    The task whose congestion `glm-scale patterns` counts. From arXiv 2605.31367, Table 1; n and the alphabet are ours.
    """

    length: int = USUAL_LENGTH
    choices = SYMBOLS

    @property
    def name(self) -> str:
        return "copy" if self.length == USUAL_LENGTH else f"copy:{self.length}"

    @property
    def vocabulary(self) -> int:
        return 1 + SYMBOLS

    def _sequences(self, generator: torch.Generator, size: int, times: int) -> tuple[Tensor, Tensor]:
        symbols = _symbols(generator, size, times * self.length)
        return _then_repeated(symbols, symbols)


@dataclass(frozen=True)
class SelectiveCopy(Task):
    """16 of 64 positions hold symbols, the others noise; behind a separator the symbols follow in order, and are asked.

    From Mamba (arXiv 2312.00752, section 4.1.1), there with a separator for every symbol. Noise is one token. A longer
    sequence has more of both.
    """

    positions: int = 64
    held: int = 16
    choices = SYMBOLS

    @property
    def name(self) -> str:
        return "selective_copy"

    @property
    def vocabulary(self) -> int:
        return 1 + SYMBOLS + 1

    @property
    def noise(self) -> int:
        """The token of positions that hold no symbol."""
        return 1 + SYMBOLS

    def _sequences(self, generator: torch.Generator, size: int, times: int) -> tuple[Tensor, Tensor]:
        symbols = _symbols(generator, size, times * self.held)
        places = distinct(generator, size, times * self.held, times * self.positions).sort(1).values
        shown = torch.full((size, times * self.positions), self.noise).scatter(1, places, symbols)
        return _then_repeated(shown, symbols)


def _symbols(generator: torch.Generator, size: int, count: int) -> Tensor:
    return torch.randint(1, 1 + SYMBOLS, (size, count), generator=generator)


def _then_repeated(shown: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    separator = torch.full((len(shown), 1), SEPARATOR)
    sequences = torch.cat([shown, separator, asked], 1)
    answers = torch.zeros_like(sequences, dtype=torch.bool)
    answers[:, -asked.shape[1] :] = True
    return sequences, answers


def read_copy(spelling: str, argument: str | None) -> Copy:
    """`copy`, or `copy:n` of n symbols."""
    if argument is None:
        return Copy()
    if (length := whole_number(argument, _LONGEST)) is None:
        raise TaskError(
            f"task {spelling!r}: copy takes how many symbols are copied, a whole number from 1 to {_LONGEST}, as in "
            f"copy:12; without one it is {USUAL_LENGTH}"
        )
    return Copy(length)


def read_selective_copy(spelling: str, argument: str | None) -> SelectiveCopy:
    """`selective_copy`, of one size."""
    if argument is not None:
        raise TaskError(f"task {spelling!r}: selective_copy takes no argument; leave out ':{argument}'")
    return SelectiveCopy()
