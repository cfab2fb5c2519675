"""The data of a run in the order of its steps."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

from glm_data import Batch, PackedSequences
from glm_scale.training.micro_batch import DeviceBatch
from glm_scale.training.ranks import Ranks

__all__ = ["StepData"]


class StepData:
    """This rank's micro-batches of one optimizer step after the other. `start` comes first, `close` last.

    `micro_batch`: sequences of each data rank, `accumulation`: micro-batches of a step. `upload` brings a batch to the
    device, and `tell` hears of bad samples.
    """

    def __init__(
        self,
        sequences: PackedSequences,
        ranks: Ranks,
        micro_batch: int,
        accumulation: int,
        upload: Callable[[Batch], DeviceBatch],
        tell: Callable[[str], None],
    ) -> None:
        self._sequences = sequences
        self._ranks = ranks
        self._micro_batch = micro_batch
        self._accumulation = accumulation
        self._upload = upload
        self._tell = tell
        self._stream: Iterator[Batch] | None = None
        self._prepared: Future[tuple[Sequence[Batch], Sequence[DeviceBatch]]] | None = None

    def start(self, sample: int) -> None:
        """Go on from the sequence `sample` of the data, counted over all ranks."""
        self.close()
        self._stream = self._ranks.batches(self._sequences, sample, self._micro_batch)

    def prepare(self) -> None:
        """Bring the next step to the device already. What goes wrong is raised, and told, when `next` is asked for it:
        it does not belong to the step that is being made.
        """
        if self._prepared is None:
            self._prepared = self._read()

    def next(self) -> Sequence[DeviceBatch]:
        """The micro-batches of the next step. The data begin anew when they end."""
        self.prepare()
        assert self._prepared is not None
        prepared, self._prepared = self._prepared, None
        step, uploaded = prepared.result()
        for problem in itertools.chain.from_iterable(batch.problems for batch in step):
            self._tell(f"skipped bad sample: {problem}")
        return uploaded

    def _read(self) -> Future[tuple[Sequence[Batch], Sequence[DeviceBatch]]]:
        assert self._stream is not None, "start comes first"
        found: Future[tuple[Sequence[Batch], Sequence[DeviceBatch]]] = Future()
        try:
            step = list(itertools.islice(self._stream, self._accumulation))
            found.set_result((step, [self._upload(batch) for batch in step]))
        except Exception as error:
            found.set_exception(error)
        return found

    def samples(self, step: Sequence[DeviceBatch]) -> int:
        """Sequences that all ranks together have when this one has these."""
        return self._ranks.sequences_of(step)

    def close(self) -> None:
        """End the processes that read the data."""
        self._prepared = None
        if self._stream is not None:
            self._stream.close()  # type: ignore[attr-defined]  # a generator
            self._stream = None
