"""Checkpoints of made-up files, for tests that care how these lie on the disk and not what is in them."""

import os
import random
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from glm_scale.checkpoint.files import hash_file
from glm_scale.checkpoint.points import Point, Reached, unwatched
from glm_scale.checkpoint.reading import Check, Checkpoint
from glm_scale.checkpoint.state import Counters, TrainingState
from glm_scale.checkpoint.store import CheckpointStore

SHARDS = ("index.json", "shard-00000.bin", "shard-00001.bin")


def content(step: int, name: str) -> bytes:
    return random.Random(f"{step} {name}").randbytes(3000)


def state_at(step: int, validation_loss: float | None = None, samples: int = 0) -> TrainingState:
    return TrainingState(Counters(step=step, samples=samples), step, {}, validation_loss)


def save(
    store: CheckpointStore,
    step: int,
    state: TrainingState | None = None,
    companions: Mapping[str, bytes] | None = None,
    reached: Reached = unwatched,
) -> Path:
    """Save a checkpoint as its ranks and the store do it."""
    staging = store.begin(step)
    for name, data in {**{name: content(step, name) for name in SHARDS}, **(companions or {})}.items():
        reached(Point.BEFORE_SHARD)
        (staging / name).write_bytes(data)
        reached(Point.SHARD_WRITTEN)
        reached(Point.SHARD_SYNCED)
    files = {path.name: hash_file(path) for path in staging.iterdir()}
    return store.commit(staging, step, state or state_at(step), files)


def newest(store: CheckpointStore, check: Check = "full") -> int | None:
    """The step of the newest checkpoint, which has to be whole to the last bit."""
    found = store.newest(check)
    if found is None:
        return None
    for name in SHARDS:
        assert (found.path / name).read_bytes() == content(found.step, name)
    return found.step


def names(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


class Told(list[str]):
    """Collects messages."""

    def __call__(self, message: str) -> None:
        self.append(message)


def flip_bit(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 4
    path.write_bytes(data)


def dies_at(work: Callable[[Reached], object], point: Point) -> bool:
    """Do `work` in another process that kills itself at `point`; whether it came to that point."""
    child = os.fork()
    if child == 0:
        try:
            work(lambda passed: os.kill(os.getpid(), signal.SIGKILL) if passed == point else None)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


@contextmanager
def reader_of(path: Path) -> Iterator[None]:
    """Another process that reads the checkpoint at `path` until the block ends."""
    started, finish = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with Checkpoint.at(path).reading():
                os.write(started[1], b"x")
                os.read(finish[0], 1)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.read(started[0], 1) == b"x"
    try:
        yield
    finally:
        os.write(finish[1], b"x")
        assert os.waitpid(child, 0)[1] == 0
        for descriptor in (*started, *finish):
            os.close(descriptor)
