"""`recall` and `recall_gaps`: associative recall with several queries (MQAR of Zoology, arXiv 2312.04927)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from glm_scale.tasks.task import SEPARATOR, Task, TaskError, distinct, whole_number

__all__ = ["Recall", "read_recall", "read_recall_gaps"]

ALPHABET = 64
"""Tokens 1 to 64 are keys, 65 to 128 values."""

USUAL_PAIRS = 16
_MOST_PAIRS = ALPHABET // 4
"""At four times the length all keys are still distinct."""

GAPS_LENGTH = 256
POWER = 0.01
"""Zoology's exponent of the power law of gaps, α."""


@dataclass(frozen=True)
class Recall(Task):
    """Pairs of a key and a value, all keys distinct, then each key once more with its value, which is asked.

    Without a `length` the keys follow in random order, one query behind the other. With one the sequence has that many
    tokens: what is left behind the pairs is cut into places of two tokens, and the g-th of them holds a query with a
    weight of g^(α − 1), so that most queries come soon and some late; separators fill the others. A longer sequence has
    more pairs.
    """

    pairs: int = USUAL_PAIRS
    length: int | None = None
    choices = ALPHABET

    @property
    def name(self) -> str:
        word = "recall" if self.length is None else "recall_gaps"
        return word if self.pairs == USUAL_PAIRS else f"{word}:{self.pairs}"

    @property
    def vocabulary(self) -> int:
        return 1 + 2 * ALPHABET

    def _sequences(self, generator: torch.Generator, size: int, times: int) -> tuple[Tensor, Tensor]:
        pairs = times * self.pairs
        keys = 1 + distinct(generator, size, pairs, ALPHABET)
        values = 1 + ALPHABET + torch.randint(ALPHABET, (size, pairs), generator=generator)
        order = distinct(generator, size, pairs, pairs)
        places, count = self._places(generator, size, times)
        asked = torch.full((size, count, 2), SEPARATOR)
        asked[:, :, 0].scatter_(1, places, keys.gather(1, order))
        asked[:, :, 1].scatter_(1, places, values.gather(1, order))
        sequences = torch.cat([torch.stack([keys, values], 2), asked], 1).flatten(1)
        answers = sequences > ALPHABET
        answers[:, : 2 * pairs] = False
        return sequences, answers

    def _places(self, generator: torch.Generator, size: int, times: int) -> tuple[Tensor, int]:
        """Where the queries stand, int64 `[size, pairs]`, and how many places there are."""
        pairs = times * self.pairs
        if self.length is None:
            return torch.arange(pairs).expand(size, -1), pairs
        count = times * self.length // 2 - pairs
        weights = torch.arange(1, count + 1, dtype=torch.float64) ** (POWER - 1)
        return weights.expand(size, -1).multinomial(pairs, generator=generator), count


def read_recall(spelling: str, argument: str | None) -> Recall:
    """`recall`, or `recall:p` of p pairs."""
    return Recall(_pairs("recall", spelling, argument))


def read_recall_gaps(spelling: str, argument: str | None) -> Recall:
    """`recall_gaps`, or `recall_gaps:p` of p pairs, both of one length."""
    return Recall(_pairs("recall_gaps", spelling, argument), GAPS_LENGTH)


def _pairs(word: str, spelling: str, argument: str | None) -> int:
    if argument is None:
        return USUAL_PAIRS
    if (pairs := whole_number(argument, _MOST_PAIRS)) is None:
        raise TaskError(
            f"task {spelling!r}: {word} takes its pairs of a key and a value, a whole number from 1 to {_MOST_PAIRS} "
            f"(at four times the length there are no more than {ALPHABET} keys), as in {word}:8; without one it is "
            f"{USUAL_PAIRS}"
        )
    return pairs
