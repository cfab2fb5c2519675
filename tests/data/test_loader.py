"""Batches: the same stream for any number of ranks, workers and interruptions."""

import itertools
import multiprocessing
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from glm_data import Batch, DataConfig, DataError, PackedSequences, batches


@pytest.fixture(scope="module")
def sequences(dataset: Path) -> PackedSequences:
    return PackedSequences(DataConfig(sources=[{"path": dataset}], sequence_length=64, workers=0))


@pytest.fixture(scope="module")
def validation(dataset: Path) -> PackedSequences:
    config = DataConfig(sources=[{"path": dataset}], sequence_length=64, workers=0)
    return PackedSequences(config, "validation")


def take(count: int, *arguments: Any, **keywords: Any) -> list[Batch]:
    return list(itertools.islice(batches(*arguments, **keywords), count))


def same(first: Batch, second: Batch) -> bool:
    names = ("tokens", "labels", "document_starts", "samples")
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in names)


def test_a_batch_holds_the_sequences_of_its_samples(sequences: PackedSequences) -> None:
    (batch,) = take(1, sequences, 17, 3)
    assert batch.samples.tolist() == [17, 18, 19]
    assert (batch.tokens.dtype, batch.labels.dtype) == (torch.int64, torch.int64)
    assert (batch.document_starts.dtype, batch.samples.dtype) == (torch.int32, torch.int64)
    assert batch.tokens.shape == batch.labels.shape == batch.document_starts.shape == (3, 64)
    for position, sample in enumerate((17, 18, 19)):
        assert np.array_equal(batch.tokens[position].numpy(), sequences[sample].tokens)
        assert np.array_equal(batch.labels[position].numpy(), sequences[sample].labels)
        assert np.array_equal(batch.document_starts[position].numpy(), sequences[sample].document_starts)


@pytest.mark.parametrize("start", [0, 5, 1234, 10**7])
def test_a_stream_can_be_continued_anywhere(sequences: PackedSequences, start: int) -> None:
    whole = take(6, sequences, start, 4)
    for used in range(1, 6):
        rest = take(6 - used, sequences, start + 4 * used, 4)
        assert all(same(first, second) for first, second in zip(whole[used:], rest, strict=True))


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_ranks_share_the_samples_of_each_batch(sequences: PackedSequences, world_size: int) -> None:
    shares = [take(4, sequences, 100, 6, rank=rank, world_size=world_size) for rank in range(world_size)]
    whole = take(4, sequences, 100, 6)
    for number, batch in enumerate(whole):
        assert torch.equal(torch.cat([share[number].tokens for share in shares]), batch.tokens)
        assert torch.equal(torch.cat([share[number].samples for share in shares]), batch.samples)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_worker_processes_change_nothing(sequences: PackedSequences) -> None:
    epoch = sequences.sequences_per_epoch[0]
    start, count = epoch - 20, 12  # across the border of two epochs
    expected = take(count, sequences, start, 4)
    for workers in (1, 3):
        found = take(count, sequences, start, 4, workers=workers)
        assert all(same(first, second) for first, second in zip(expected, found, strict=True))


@pytest.mark.parametrize("world_size", [1, 2])
def test_the_last_batch_is_filled_with_padding(validation: PackedSequences, world_size: int) -> None:
    size = 4 * world_size
    assert len(validation) % size
    shares = [take(1000, validation, 0, size, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1
    samples = [sample for batch in zip(*shares, strict=True) for part in batch for sample in part.samples.tolist()]
    padding = -len(validation) % size
    assert samples == [*range(len(validation)), *[-1] * padding]
    last = shares[-1][-1]
    assert last.tokens.shape == (4, 64)
    assert (last.labels[last.samples == -1] == -100).all()
    assert (last.document_starts[last.samples == -1] == 0).all()


def test_a_stream_can_be_cut(sequences: PackedSequences) -> None:
    assert [batch.samples.tolist() for batch in batches(sequences, 3, 2, stop=8)] == [[3, 4], [5, 6], [7, -1]]
    assert take(9, sequences, 3, 2, stop=3) == []


def test_reading_leaves_the_random_numbers_of_the_training_alone(sequences: PackedSequences) -> None:
    before = torch.get_rng_state()
    take(2, sequences, 0, 2)
    assert torch.equal(before, torch.get_rng_state())


def test_closing_ends_the_worker_processes(sequences: PackedSequences) -> None:
    before, active = set(psutil.Process().children(recursive=True)), set(multiprocessing.active_children())
    stream = batches(sequences, 0, 2, workers=2)
    next(stream)
    workers = [child for child in psutil.Process().children(recursive=True) if child not in before]
    assert len(workers) >= 2
    stream.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 60
    # What stays is the server that starts workers, once for the whole process.
    while len([worker for worker in workers if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE]) > 2:
        assert time.monotonic() < deadline, "the workers are still there"
        time.sleep(0.02)
    assert set(multiprocessing.active_children()) <= active


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM])
def test_signals_to_every_process_of_a_job_do_not_cut_the_stream(
    sequences: PackedSequences, number: signal.Signals
) -> None:
    others = set(psutil.Process().children(recursive=True))
    stream = batches(sequences, 0, 2, workers=2)
    next(stream)
    for child in set(psutil.Process().children(recursive=True)) - others:
        child.send_signal(number)
    assert len(list(itertools.islice(stream, 50))) == 50
    stream.close()  # type: ignore[attr-defined]
    assert len(take(3, sequences, 0, 2, workers=1)) == 3


def test_a_worker_that_is_killed_is_an_error_not_a_hang(
    sequences: PackedSequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch looks for its workers every five seconds.
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))
    stream = batches(sequences, 0, 2, workers=1)
    next(stream)
    (worker,) = multiprocessing.active_children()
    worker.kill()
    with pytest.raises(DataError, match=r"ended unexpectedly.*data\.workers"):
        list(itertools.islice(stream, 1000))


@pytest.mark.parametrize(
    ("size", "rank", "world_size", "message"),
    [(5, 0, 2, "5 sequences"), (0, 0, 1, "0 sequences"), (4, 2, 2, "rank 2 of 2")],
)
def test_impossible_shares_are_refused_at_once(
    sequences: PackedSequences, size: int, rank: int, world_size: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        batches(sequences, 0, size, rank=rank, world_size=world_size)
