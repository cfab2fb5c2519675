"""Processes that die and disks that refuse while a checkpoint is saved."""

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from glm_scale.checkpoint import store as folder_module
from glm_scale.checkpoint.files import hash_file
from glm_scale.checkpoint.layout import leftovers, places
from glm_scale.checkpoint.manifest import PENDING
from glm_scale.checkpoint.points import Point, Reached
from glm_scale.checkpoint.reading import Checkpoint
from glm_scale.checkpoint.retention import Retention
from glm_scale.checkpoint.store import CheckpointStore
from glm_scale.errors import UserError
from tests.checkpoint.made_up import SHARDS, Told, content, dies_at, flip_bit, names, newest, save, state_at

SHARD = SHARDS[1]


@pytest.mark.parametrize("point", list(Point), ids=lambda point: point.replace(" ", "-"))
def test_after_death_at_any_point_the_old_or_the_new_one_is_there(
    store: CheckpointStore, point: Point, told: Told
) -> None:
    save(store, 1), save(store, 2)

    def saving(reached: Reached) -> None:
        save(CheckpointStore(store.folder, Retention(2), reached=reached), 3, reached=reached)

    assert dies_at(saving, point)
    committed = point in (Point.COMMITTED, Point.BEFORE_DELETE, Point.DELETING, Point.DELETED)
    assert newest(store) == (3 if committed else 2)
    assert any("its save was interrupted" in line for line in told) == (not committed)
    whole = [place.step for place in places(store.folder) if not (place.path / PENDING).exists()]
    assert whole[-2:] == ([2, 3] if committed else [1, 2])
    assert all(Checkpoint.at(place.path, "full") for place in places(store.folder) if place.step in whole)
    save(store, 4)
    assert leftovers(store.folder) == []
    assert names(store) == [f"step-0000000{step}" for step in ((3, 4) if committed else (2, 4))]


def test_a_half_deleted_checkpoint_is_no_checkpoint(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    save(store, 1), save(store, 2)

    def saving(reached: Reached) -> None:
        def half(path: Path) -> None:
            (path / SHARD).unlink()
            reached(Point.DELETED)

        monkeypatch.setattr(shutil, "rmtree", half)
        save(CheckpointStore(store.folder, Retention(2)), 3)

    assert dies_at(saving, Point.DELETED)
    assert [place.step for place in places(store.folder)] == [2, 3]
    save(store, 4)
    assert names(store) == ["step-00000003", "step-00000004"]


@pytest.mark.parametrize("point", list(Point), ids=lambda point: point.replace(" ", "-"))
def test_death_while_a_step_is_saved_again_leaves_one_of_both(store: CheckpointStore, point: Point) -> None:
    save(store, 1), save(store, 2, state_at(2, samples=1))

    def saving(reached: Reached) -> None:
        save(CheckpointStore(store.folder, Retention(2), reached=reached), 2, state_at(2, samples=2), reached=reached)

    assert dies_at(saving, point)
    assert newest(store) == 2
    found = store.newest()
    assert found is not None
    committed = list(Point).index(point) >= list(Point).index(Point.COMMITTED)
    assert found.state.counters.samples == (2 if committed else 1)
    save(store, 2, state_at(2, samples=3))
    assert leftovers(store.folder) == []
    assert [place.step for place in places(store.folder)] == [1, 2]


REFUSALS = [
    (errno.ENOSPC, "free space there"),
    (errno.EROFS, "make the folder writable"),
    (errno.EIO, "check the disk"),
]


@pytest.mark.parametrize(("number", "way_out"), REFUSALS)
@pytest.mark.parametrize("call", [0, 1, 2, 3, 4, 5, 6])
def test_a_refusal_by_the_disk_leaves_the_older_ones_and_no_staging(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, number: int, way_out: str, call: int
) -> None:
    """Of all calls that write, the given one fails."""
    save(store, 1), save(store, 2)
    count = -1

    def refusing(function: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*arguments: object, **keywords: object) -> object:
            nonlocal count
            count += 1
            if count == call:
                raise OSError(number, os.strerror(number))
            return function(*arguments, **keywords)

        return wrapped

    with monkeypatch.context() as patch:
        for owner, name in (
            (Path, "mkdir"), (Path, "rename"), (folder_module, "write_synced"), (folder_module, "sync_directory")
        ):  # fmt: skip
            patch.setattr(owner, name, refusing(getattr(owner, name)))
        with pytest.raises(UserError, match=rf"step-00000003.*{os.strerror(number)}.*{way_out}"):
            save(store, 3)
    assert count == call
    assert names(store) == ["step-00000001", "step-00000002"]
    assert newest(store) == 2


def test_an_old_checkpoint_that_cannot_be_deleted_does_not_fail_the_save(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, told: Told
) -> None:
    save(store, 1), save(store, 2)

    def refusing(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refusing)
        save(store, 3)
    assert "step-00000001 could not be deleted: Input/output error" in told[0]
    assert newest(store) == 3
    save(store, 4)
    assert names(store) == ["step-00000003", "step-00000004"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", place], capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    store = CheckpointStore(small_disk / "checkpoints", Retention(2))
    save(store, 1), save(store, 2)
    staging = store.begin(3)
    (staging / SHARD).write_bytes(content(3, SHARD))
    files = {SHARD: hash_file(staging / SHARD)}
    with contextlib.suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    with pytest.raises(UserError, match=r"No space left on device.*free space"):
        store.commit(staging, 3, state_at(3), files)
    assert names(store) == ["step-00000001", "step-00000002"]
    (small_disk / "filler").unlink()
    save(store, 3)
    assert newest(store) == 3


def test_a_read_only_disk(small_disk: Path, told: Told) -> None:
    store = CheckpointStore(small_disk / "checkpoints", Retention(2), tell=told)
    save(store, 1)
    flip_bit(save(store, 2) / SHARD, 0)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(UserError, match=r"step-00000003.*Read-only file system.*writable"):
        store.begin(3)
    assert newest(store) == 1
    assert "step-00000002 is damaged" in told[0]
    assert "cannot be set aside: Read-only file system" in told[0]
    assert names(store) == ["step-00000001", "step-00000002"]
