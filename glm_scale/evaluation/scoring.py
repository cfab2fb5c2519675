"""Log-likelihoods of how documents go on, many documents to a forward pass.

Two layouts. `padded`: documents of like length, one to a sequence, the rest of which nothing reads: the least work
where any shape will do. `packed`: documents side by side in sequences of one shape, as in training: for models that are
compiled for it, or whose sequences are spread over ranks.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from glm_data import Batch

__all__ = ["Request", "Score", "ScoringBatch", "packed", "padded", "score"]

_ROUNDED_TO = 16
"""Sequences are as long as a multiple of this, so that there are few shapes."""
_IGNORED = -100


class Request(NamedTuple):
    """A document that begins with the tokens `context` (at least one), and a continuation to be judged."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]

    @property
    def read(self) -> int:
        """Tokens that the model reads: all but the last."""
        return len(self.context) + len(self.continuation) - 1

    def within(self, length: int) -> Request:
        """The same with the beginning of the context left out, so that at most `length` tokens are read.

        Raises ValueError if the continuation alone is longer.
        """
        if len(self.continuation) > length:
            raise ValueError(f"a continuation of {len(self.continuation)} tokens does not fit into {length}")
        surplus = self.read - length
        return self if surplus <= 0 else Request(self.context[surplus:], self.continuation)


class Score(NamedTuple):
    """log p(continuation | context) in nats, and whether greedy decoding would give every token of it."""

    log_likelihood: float
    greedy: bool


class ScoringBatch(NamedTuple):
    """A batch, and which request each position belongs to: int64 `[B, T]`."""

    batch: Batch
    owners: Tensor


class _Sheet:
    """Sequences `[rows, length]` that documents are written into; whose place nobody takes is padding."""

    def __init__(self, rows: int, length: int) -> None:
        self.tokens = torch.zeros(rows, length, dtype=torch.int64)
        self.labels = torch.full_like(self.tokens, _IGNORED)
        self.starts = torch.zeros(rows, length, dtype=torch.int32)
        self.owners = torch.zeros_like(self.tokens)

    def write(self, number: int, request: Request, row: int, begin: int) -> None:
        tokens = torch.tensor([*request.context, *request.continuation])
        place = slice(begin, begin + request.read)
        self.tokens[row, place] = tokens[:-1]
        # What follows belongs to this document, until another one is written behind it.
        self.starts[row, begin:] = begin
        self.owners[row, place] = number
        self.labels[row, place.stop - len(request.continuation) : place.stop] = tokens[len(request.context) :]

    def batch(self) -> ScoringBatch:
        samples = torch.full((len(self.tokens),), -1)
        return ScoringBatch(Batch(self.tokens, self.labels, self.starts, samples), self.owners)


def padded(requests: Sequence[Request], batch_tokens: int) -> Iterator[ScoringBatch]:
    """Batches of at most `batch_tokens` tokens (or one document, if that is longer), the longest documents first: what
    does not fit into memory fails at once."""
    order = sorted(range(len(requests)), key=lambda number: -requests[number].read)
    while order:
        length = -(-requests[order[0]].read // _ROUNDED_TO) * _ROUNDED_TO
        count = max(1, batch_tokens // length)
        taken, order = order[:count], order[count:]
        sheet = _Sheet(len(taken), length)
        for row, number in enumerate(taken):
            sheet.write(number, requests[number], row, 0)
        yield sheet.batch()


def packed(
    requests: Sequence[Request], rows: int, length: int, multiple_of: int = 1
) -> list[Callable[[], ScoringBatch]]:
    """Batches of the shape `[rows, length]` with documents side by side, each made when it is called.

    Their number is a multiple of `multiple_of`; the last ones may be empty. Best fit, longest documents first.
    Raises ValueError for a document that is longer than a sequence.
    """
    sequences: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # what is left of a sequence, and its number; ascending
    for number in sorted(range(len(requests)), key=lambda number: -requests[number].read):
        needed = requests[number].read
        if needed > length:
            raise ValueError(f"a document of {needed} tokens does not fit into a sequence of {length}")
        place = bisect_left(rooms, (needed, 0))
        if place < len(rooms):
            room, sequence = rooms.pop(place)
        else:
            room, sequence = length, len(sequences)
            sequences.append([])
        sequences[sequence].append(number)
        insort(rooms, (room - needed, sequence))
    count = -(-max(len(sequences), 1) // (rows * multiple_of)) * multiple_of

    def make(first: int) -> ScoringBatch:
        sheet = _Sheet(rows, length)
        for row, numbers in enumerate(sequences[first : first + rows]):
            begin = 0
            for number in numbers:
                sheet.write(number, requests[number], row, begin)
                begin += requests[number].read
        return sheet.batch()

    return [lambda first=first: make(first) for first in range(0, count * rows, rows)]  # type: ignore[misc]


def score(
    requests: int,
    batches: Iterable[ScoringBatch],
    token_scores: Callable[[Batch], Tensor],
    totals: Callable[[list[float]], list[float]] = list,
) -> list[Score]:
    """The scores of so many requests, of which `batches` and those of other ranks have all tokens once.

    `token_scores` gives `model.head.token_scores` of a batch, fp32 `[2, B, T]`; `totals` sums over all ranks.
    """
    # Log-likelihoods, and tokens that greedy decoding would not give.
    sums = torch.zeros(2, requests, dtype=torch.float64)
    for batch, owners in batches:
        log_likelihoods, greedy = token_scores(batch).double().cpu()
        counted = batch.labels >= 0
        sums[0].index_add_(0, owners[counted], log_likelihoods[counted])
        sums[1].index_add_(0, owners[counted], 1 - greedy[counted])
    values = totals(sums.flatten().tolist())
    return [Score(value, misses == 0) for value, misses in zip(values[:requests], values[requests:], strict=True)]
