"""What a synthetic task is: sequences with questions in them, drawn anew from a seed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from glm_scale.errors import UserError
from glm_scale.model.head import IGNORED

__all__ = ["SEPARATOR", "Examples", "Task", "TaskError", "distinct", "whole_number"]

SEPARATOR = 0
"""The token between the parts of a sequence; never an answer."""


class TaskError(UserError, ValueError):
    """A task that is misspelled, or of a size that it cannot have."""


class Examples(NamedTuple):
    """tokens and labels, int64 `[size, T]`: at each position the token there, and the token to be predicted from there,
    −100 where nothing is asked."""

    tokens: Tensor
    labels: Tensor


class Task(ABC):
    """A family of sequences whose answers follow from the tokens before them."""

    choices: int
    """Tokens that an answer may be; a model that knows the alphabet alone is right once in so many answers."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The canonical spelling."""

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """Tokens there are, the separator among them."""

    @abstractmethod
    def _sequences(self, generator: torch.Generator, size: int, times: int) -> tuple[Tensor, Tensor]:
        """Whole sequences, int64 `[size, L]`, and whether each of their tokens is an answer, bool of that shape."""

    def draw(self, seed: int, size: int, times: int = 1) -> Examples:
        """`size` examples of `times` the usual length: the same for the same arguments, on every machine."""
        sequences, answers = self._sequences(torch.Generator().manual_seed(seed), size, times)
        labels = sequences.masked_fill(~answers, IGNORED)
        return Examples(sequences[:, :-1].contiguous(), labels[:, 1:].contiguous())


def distinct(generator: torch.Generator, size: int, count: int, choices: int) -> Tensor:
    """int64 `[size, count]`: in each row different numbers below `choices`, all selections in all orders alike."""
    return torch.rand(size, choices, generator=generator).argsort(1)[:, :count]


def whole_number(text: str | None, most: int) -> int | None:
    """The number from 1 to `most` that stands in a spelling; None for anything else."""
    if text is None or not text.isdecimal() or len(text) > len(str(most)) or not 1 <= int(text) <= most:
        return None
    return int(text)
