"""Sums of losses by which tokens they are of, batch by batch and over the ranks of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from glm_data import Batch, PackedSequences
from glm_scale.tracking.breakdown import BLOCKS, Breakdown, buckets, cell_names
from glm_scale.training.repeats import repeat_distances

__all__ = ["TokenGroups"]


class TokenGroups:
    """Collects the losses of `sequences` packed sequences of `length` tokens, numbered by `Batch.samples` from 0 on.

    The position of a predicted token is the number of tokens before it in its document, as far as the batch shows them:
    of a document that was cut into several sequences, those since the cut, and where documents are not told apart,
    those since the start of the sequence. That, and no more, is what a mixer could use. Repetitions are looked for in
    the same tokens (see `repeat_distances`).

    `own_columns` gives of `[B, T]` of whole sequences those columns whose losses this rank has. `sources` are the names
    of the data sets, where they are several, and `source_of` says which of them a sequence is of.
    """

    def __init__(
        self,
        sequences: int,
        length: int,
        own_columns: Callable[[Tensor], Tensor] | None = None,
        sources: Sequence[str] = (),
        source_of: Callable[[int], int] = lambda sample: 0,
    ) -> None:
        self.sequences, self.length = sequences, length
        self._own_columns = own_columns or (lambda x: x)
        self._sources, self._source_of = (tuple(sources) if len(sources) > 1 else ()), source_of
        self._cells, self._buckets = len(cell_names(length, self._sources)), len(buckets(length))
        self._blocks = min(BLOCKS, sequences)
        self.tokens = np.zeros((self._blocks, self._cells), np.int64)
        self.nats = np.zeros((self._blocks, self._cells), np.float64)
        self.source_bytes = np.zeros(len(self._sources), np.int64)

    @classmethod
    def of(
        cls, source: PackedSequences, sequences: int, own_columns: Callable[[Tensor], Tensor] | None = None
    ) -> TokenGroups:
        """For the first so many sequences of a split."""
        length, names = source.config.sequence_length, source.source_names
        return cls(sequences, length, own_columns, names, lambda sample: source.locate(sample).source)

    def places(self, batch: Batch) -> Tensor:
        """int64 `[B, T, n]` of this rank's tokens: where each belongs in the table by position, by kind, and, if there
        are several, by data set; −1 where nothing is predicted. Work for the host alone."""
        whole = batch.whole or batch
        tokens, labels, starts = whole.tokens.numpy(), whole.labels.numpy(), whole.document_starts.numpy()
        position = _power(np.arange(1, tokens.shape[1] + 1) - starts)
        bigram, fourgram = repeat_distances(tokens, labels, starts, 2)
        kind = np.where(bigram > 0, 1 + _power(bigram), 0)
        kind = self._buckets + np.where(fourgram > 0, 1 + self._buckets + _power(fourgram), kind)
        block = (whole.samples.numpy() * self._blocks // self.sequences * self._cells)[:, None]
        cells = [position, kind, *([self._source_cells(whole.samples)] if self._sources else [])]
        found = [torch.from_numpy(np.where(labels >= 0, block + cell, -1)) for cell in cells]
        return torch.stack([self._own_columns(place) for place in found], -1)

    def _source_cells(self, samples: Tensor) -> np.ndarray:
        sources = [self._source_of(sample) if sample >= 0 else 0 for sample in samples.tolist()]
        return np.array(sources)[:, None] + self._cells - len(self._sources)

    def add(self, places: Tensor, losses: Tensor, text_bytes: Tensor) -> None:
        """Add the losses `[B, T]` of a batch of this rank, fp64 on the host, and the bytes that its tokens stand for,
        where they belong."""
        counted = places[..., 0] >= 0
        values, sizes = losses[counted].numpy(), text_bytes[counted].numpy()
        chosen = [place.numpy() for place in places[counted].unbind(-1)]
        for at in chosen:
            self.tokens += np.bincount(at, minlength=self.tokens.size).reshape(self.tokens.shape)
            self.nats += np.bincount(at, values, minlength=self.nats.size).reshape(self.nats.shape)
        if self._sources:
            source = chosen[-1] % self._cells - (self._cells - len(self._sources))
            self.source_bytes += np.bincount(source, sizes, minlength=len(self._sources)).astype(np.int64)

    def sums(self) -> list[float]:
        """All that this rank has collected, as one row of numbers that can be added to those of others."""
        return [*map(float, self.tokens.ravel()), *self.nats.ravel().tolist(), *map(float, self.source_bytes)]

    def breakdown(self, sums: Sequence[float]) -> Breakdown:
        """What `sums` of all ranks together say."""
        size = self._blocks * self._cells
        tokens, nats = np.array(sums[: 2 * size], np.float64).reshape(2, self._blocks, self._cells)
        source_bytes = tuple(map(int, sums[2 * size :]))
        return Breakdown(self.length, self.sequences, tokens.astype(np.int64), nats, self._sources, source_bytes)


def _power(x: np.ndarray) -> np.ndarray:
    """⌊log₂ x⌋ of integers from 1 on."""
    return np.frexp(x)[1].astype(np.int64) - 1
