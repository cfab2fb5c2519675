"""The map over worker processes: in order, without deadlock, and with the errors of the workers."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from glm_data import DataError
from glm_data.parallel import ordered_map


@dataclass(frozen=True)
class Answer:
    """Takes its time, answers with much, and fails where it is told to."""

    fail_at: int = -1
    die_at: int = -1

    def __call__(self, item: tuple[int, bytes]) -> tuple[int, bytes]:
        number, payload = item
        if number == self.fail_at:
            raise DataError(f"item {number} is bad")
        if number == self.die_at:
            os._exit(3)
        time.sleep(0.01 * (number % 3))
        return number, payload


def items(count: int, size: int = 1) -> list[tuple[int, bytes]]:
    return [(number, bytes(size)) for number in range(count)]


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_however_large(workers: int) -> None:
    # Larger than any pipe's buffer, both ways at once.
    assert list(ordered_map(Answer(), items(20, 1_000_000), workers)) == items(20, 1_000_000)
    assert list(ordered_map(Answer(), [], workers)) == []


def test_only_a_few_items_are_in_flight() -> None:
    taken = 0

    def counted():
        nonlocal taken
        for item in items(1000):
            taken += 1
            yield item

    results = ordered_map(Answer(), counted(), 2)
    for _ in range(5):
        next(results)
    assert taken < 20
    results.close()  # type: ignore[attr-defined]


def test_errors_of_workers_are_raised_in_their_place() -> None:
    results = ordered_map(Answer(fail_at=3), items(50), 2)
    assert [next(results)[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match="item 3 is bad"):
        next(results)


def test_a_dead_worker_is_an_error() -> None:
    with pytest.raises(DataError, match=r"ended unexpectedly \(exit code 3\).*--workers"):
        list(ordered_map(Answer(die_at=3), items(50), 2))


@dataclass(frozen=True)
class SlowOnce:
    """The process that answers; the first item takes until all others that fit beside it are done."""

    folder: Path

    def __call__(self, number: int) -> int:
        if number == 0:
            deadline = time.monotonic() + 120
            while len(list(self.folder.iterdir())) < 6 and time.monotonic() < deadline:
                time.sleep(0.01)
        else:
            (self.folder / str(number)).touch()
        return os.getpid()


def test_nobody_waits_for_a_slower_worker(tmp_path: Path) -> None:
    """One item waits behind the slow one; the six others that may be in flight are done beside it."""
    answered = list(ordered_map(SlowOnce(tmp_path), range(8), 2))
    assert answered.count(answered[0]) == 2


def test_all_workers_may_die() -> None:
    with pytest.raises(DataError, match="ended unexpectedly"):
        list(ordered_map(os._exit, [3] * 50, 2))
