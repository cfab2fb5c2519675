"""The data of a run in the order of its steps."""

import itertools
from collections.abc import Callable, Iterator, Sequence

from glm_data import Batch, PackedSequences
from glm_scale.training.ranks import Ranks

__all__ = ["StepData"]


class StepData:
    """This rank's micro-batches of one optimizer step after the other. `start` comes first, `close` last.

    `micro_batch`: sequences of each data rank, `accumulation`: micro-batches of a step. `tell` hears of bad samples.
    """

    def __init__(
        self, sequences: PackedSequences, ranks: Ranks, micro_batch: int, accumulation: int, tell: Callable[[str], None]
    ) -> None:
        self._sequences = sequences
        self._ranks = ranks
        self._micro_batch = micro_batch
        self._accumulation = accumulation
        self._tell = tell
        self._stream: Iterator[Batch] | None = None

    def start(self, sample: int) -> None:
        """Go on from the sequence `sample` of the data, counted over all ranks."""
        self.close()
        self._stream = self._ranks.batches(self._sequences, sample, self._micro_batch)

    def next(self) -> Sequence[Batch]:
        """The micro-batches of the next step. The data begin anew when they end."""
        assert self._stream is not None, "start comes first"
        step = list(itertools.islice(self._stream, self._accumulation))
        for problem in itertools.chain.from_iterable(batch.problems for batch in step):
            self._tell(f"skipped bad sample: {problem}")
        return step

    def samples(self, step: Sequence[Batch]) -> int:
        """Sequences that all ranks together have when this one has these."""
        return self._ranks.sequences_of(step)

    def close(self) -> None:
        """End the processes that read the data."""
        if self._stream is not None:
            self._stream.close()  # type: ignore[attr-defined]  # a generator
            self._stream = None
