"""Batches of packed sequences, prepared ahead of time by worker processes, in an order fixed by one counter."""

import contextlib
import multiprocessing
import os
import signal
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from glm_data.errors import DataError, at_limit, is_at_limit
from glm_data.sequences import PackedSequences
from glm_data.sockets import make_socket_folder

PADDING_SAMPLE = -1
_BATCHES_AHEAD = 4  # per worker
_FILES_OF_ALL_WORKERS, _FILES_OF_A_WORKER = 12, 8
"""Of this process: queues and what watches over workers, and more for a moment while one starts."""
_LATER = 60
"""Seconds that a worker lives on after SIGTERM."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True)
class Batch:
    """The sequences of one rank's share of a batch.

    Attributes:
        tokens: int64 `[B, T]`.
        labels: int64 `[B, T]`, already shifted; −100 is not counted.
        document_starts: int32 `[B, T]`: position in the sequence where each token's document starts.
        samples: int64 `[B]`: global sample numbers; −1 for a sequence of padding behind the last sample.
        problems: one message for each piece that was skipped because it is damaged.
        whole: the batch of whole sequences, where `tokens` is a part of each; None where it is all.
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    document_starts: torch.Tensor
    samples: torch.Tensor
    problems: tuple[str, ...] = ()
    whole: "Batch | None" = None

    @property
    def all_document_starts(self) -> torch.Tensor | None:
        """The document starts of whole sequences, where `tokens` is a part of each."""
        return None if self.whole is None else self.whole.document_starts

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """The same batch on a device."""
        return Batch(
            self.tokens.to(device, non_blocking=non_blocking),
            self.labels.to(device, non_blocking=non_blocking),
            self.document_starts.to(device, non_blocking=non_blocking),
            self.samples.to(device, non_blocking=non_blocking),
            self.problems,
        )

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory, from where copies to a GPU can overlap with work."""
        return Batch(
            self.tokens.pin_memory(),
            self.labels.pin_memory(),
            self.document_starts.pin_memory(),
            self.samples,
            self.problems,
        )


def start_early() -> None:
    """Have the process that workers are forked from begin with its imports, for which `batches` would wait.

    If it cannot be started, `batches` tells why.
    """
    with contextlib.suppress(OSError), _blocked_signals():
        _context()
        forkserver.ensure_running()


def batches(
    sequences: PackedSequences,
    start: int,
    batch_size: int,
    *,
    stop: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    workers: int | None = None,
) -> Iterator[Batch]:
    """Iterate over batches of samples from `start` on.

    The n-th batch holds `batch_size` samples from `start + n * batch_size` on, over all ranks together; this rank gets
    its contiguous share of them. To continue an interrupted stream, on any number of ranks, start at the first
    sample not yet used. All batches have the same shape: where `stop` cuts the last one short, sequences of padding
    fill it (sample −1, no labels), so that all ranks see equally many batches.

    Closing the iterator (or dropping it) stops the worker processes.

    Args:
        sequences: what to read.
        start: global number of the first sample.
        batch_size: sequences of a batch over all ranks together; a multiple of `world_size`.
        stop: global number behind the last sample; None is no end for training, the split's end for validation.
        rank: of this process, `0 … world_size − 1`.
        world_size: number of processes that share the batches.
        workers: processes that prepare batches; None takes the configuration's, 0 prepares them here.

    Raises:
        DataError: a sample is damaged and the configuration says stop, or a worker process was killed.
        ValueError: `batch_size` is no multiple of `world_size`, or the rank is none of them.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} of {world_size}")
    if batch_size < 1 or batch_size % world_size:
        raise ValueError(f"a batch of {batch_size} sequences cannot be shared evenly by {world_size} ranks")
    if stop is None and sequences.split == "validation":
        stop = len(sequences)
    workers = sequences.config.workers if workers is None else workers
    return _batches(sequences, _Shares(start, stop, batch_size, rank, world_size), workers)


@dataclass(frozen=True)
class _Shares:
    """The sample numbers of one rank's share of each batch."""

    start: int
    stop: int | None
    batch_size: int
    rank: int
    world_size: int

    def __iter__(self) -> Iterator[list[int]]:
        share = self.batch_size // self.world_size
        first = self.start
        while self.stop is None or first < self.stop:
            begin = first + self.rank * share
            yield [
                sample if self.stop is None or sample < self.stop else PADDING_SAMPLE
                for sample in range(begin, begin + share)
            ]
            first += self.batch_size


def _batches(sequences: PackedSequences, shares: _Shares, workers: int) -> Iterator[Batch]:
    try:
        if workers:
            # A loader that finds out itself leaves half an iterator behind, which complains on stderr.
            _try_to_open(_FILES_OF_ALL_WORKERS + _FILES_OF_A_WORKER * workers)
        with _blocked_signals() if workers else contextlib.nullcontext():
            iterator = iter(_loader(sequences, shares, workers))
    except OSError as error:
        if not is_at_limit(error):
            raise
        raise at_limit(f"{workers} processes to prepare batches (data.workers) cannot be started", error) from error
    try:
        for item in iterator:
            if isinstance(item, DataError):
                raise item
            yield _to_batch(item)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            "A worker process that prepares batches ended unexpectedly, most often because memory ran out. Continue "
            f"with fewer data.workers (now {workers}). ({error})"
        ) from error
    finally:
        # The workers end with the iterator, not at some later garbage collection.
        with contextlib.suppress(AttributeError):
            iterator._shutdown_workers()  # type: ignore[attr-defined]


def _try_to_open(count: int) -> None:
    """Raises OSError if this process cannot have so many more files open."""
    with contextlib.ExitStack() as opened:
        for _ in range(count):
            opened.callback(os.close, os.open(os.devnull, os.O_RDONLY))


def _loader(sequences: PackedSequences, shares: _Shares, workers: int) -> DataLoader:
    # How many workers there are is the user's decision.
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    return DataLoader(
        _Shareable(sequences),
        sampler=shares,
        batch_size=None,
        collate_fn=_same,
        num_workers=workers,
        prefetch_factor=_BATCHES_AHEAD if workers else None,
        # Forking a process that runs threads (of torch, of a tracker) can deadlock the child.
        multiprocessing_context=_context() if workers else None,
        worker_init_fn=_leave_signals_to_the_parent if workers else None,
        # The loader draws a number whenever it starts; from torch's global generator that would make what follows
        # depend on how often it was started.
        generator=torch.Generator(),
    )


def _context() -> multiprocessing.context.BaseContext:
    make_socket_folder()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
    """Processes that are started meanwhile have these signals blocked, the server that forks workers included."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    # Starting it lets some of them through again, which must not happen before the server is there.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_signals_to_the_parent(_worker: int) -> None:
    """Ctrl-C and the end of a terminal reach the whole process group, what a scheduler sends every process of a job.

    The parent decides what to do about it, and may want some more batches. SIGTERM still ends a worker, but later.
    """
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_LATER))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _same(item: object) -> object:
    return item


@dataclass(frozen=True)
class _Arrays:
    """A batch on its way between processes.

    Plain arrays travel through a pipe; tensors would need shared memory, which containers are short of.
    """

    tokens: np.ndarray
    labels: np.ndarray
    document_starts: np.ndarray
    samples: np.ndarray
    problems: tuple[str, ...]


class _Shareable(Dataset):
    """What a worker process runs. Errors travel as values: an exception would come back wrapped in a traceback."""

    def __init__(self, sequences: PackedSequences):
        self._sequences = sequences

    def __getitem__(self, samples: list[int]) -> _Arrays | DataError:
        try:
            sequences = [
                self._sequences.padding_sequence() if sample == PADDING_SAMPLE else self._sequences[sample]
                for sample in samples
            ]
        except DataError as error:
            return error
        return _Arrays(
            np.stack([sequence.tokens for sequence in sequences]),
            np.stack([sequence.labels for sequence in sequences]),
            np.stack([sequence.document_starts for sequence in sequences]),
            np.array([sequence.sample for sequence in sequences], dtype=np.int64),
            tuple(problem for sequence in sequences for problem in sequence.problems),
        )


def _to_batch(arrays: _Arrays) -> Batch:
    return Batch(
        torch.from_numpy(arrays.tokens),
        torch.from_numpy(arrays.labels),
        torch.from_numpy(arrays.document_starts),
        torch.from_numpy(arrays.samples),
        arrays.problems,
    )
