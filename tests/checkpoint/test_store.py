"""Checkpoints on disk: what a save leaves, who finds it, and what readers are safe from."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from glm_scale import locking
from glm_scale.checkpoint import layout
from glm_scale.checkpoint.files import FileRecord, hash_file
from glm_scale.checkpoint.layout import find_checkpoint, places
from glm_scale.checkpoint.manifest import MARKER, PENDING
from glm_scale.checkpoint.points import Point
from glm_scale.checkpoint.reading import Checkpoint, GoneError, UnfinishedError
from glm_scale.checkpoint.retention import Retention
from glm_scale.checkpoint.store import CheckpointStore
from glm_scale.errors import UserError
from glm_scale.locking import held_alone
from tests.checkpoint.made_up import SHARDS, Told, content, flip_bit, names, newest, reader_of, save, state_at

SHARD = SHARDS[1]


def test_gives_back_what_was_saved(store: CheckpointStore) -> None:
    state = state_at(5, validation_loss=2.5)
    path = save(store, 5, state)
    assert path.name == "step-00000005"
    found = store.newest()
    assert found == Checkpoint.at(path, "full")
    assert (found.step, found.state, set(found.files)) == (5, state, set(SHARDS))
    assert found.size == 3 * 3000
    subprocess.run(["sha256sum", "--check", "--status", MARKER], cwd=path, check=True)


def test_a_save_passes_its_points_in_order(tmp_path: Path) -> None:
    passed: list[str] = []
    store = CheckpointStore(tmp_path, Retention(1), reached=passed.append)
    save(store, 1)
    passed.clear()
    save(store, 2, reached=passed.append)
    assert list(dict.fromkeys(passed)) == list(Point)


def test_what_has_no_marker_does_not_exist(store: CheckpointStore, told: Told) -> None:
    save(store, 1)
    staging = store.begin(2)
    (staging / SHARD).write_bytes(b"half")
    assert newest(store) == 1
    assert str(staging) in told[0]
    with pytest.raises(UserError, match="marker"):
        Checkpoint.at(staging)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda staging: (staging / SHARD).unlink(), "is missing"),
        (lambda staging: (staging / SHARD).write_bytes(b"short"), "5 bytes instead of 3000"),
        (lambda staging: (staging / "more").write_bytes(b""), "more does not belong to it"),
    ],
)
def test_only_the_files_that_ranks_wrote_are_committed(
    store: CheckpointStore, change: Callable[[Path], object], problem: str
) -> None:
    save(store, 1)
    staging = store.begin(2)
    for name in SHARDS:
        (staging / name).write_bytes(content(2, name))
    files = {name: hash_file(staging / name) for name in SHARDS}
    change(staging)
    with pytest.raises(UserError, match=problem):
        store.commit(staging, 2, state_at(2), files)
    assert names(store) == ["step-00000001"]


def test_files_outside_the_checkpoint_cannot_be_named(store: CheckpointStore) -> None:
    with pytest.raises(ValueError, match="no name for a file"):
        store.commit(store.begin(1), 1, state_at(1), {"../../elsewhere": FileRecord(0, "0" * 64)})


def test_a_step_saved_again_counts_instead_of_the_earlier_one(store: CheckpointStore) -> None:
    for number in (1, 2, 3):
        save(store, 7, state_at(7, samples=number))
        found = store.newest()
        assert found is not None
        assert found.state.counters.samples == number
        assert len(names(store)) == 1


def test_clocks_decide_nothing(tmp_path: Path) -> None:
    times = iter([3e9, 5.0, 4e9])
    store = CheckpointStore(tmp_path, Retention(2), clock=lambda: next(times))
    for step in (9, 10, 100):
        os.utime(save(store, step), (1e9 - step, 1e9 - step))
    assert names(store) == ["step-00000010", "step-00000100"]
    assert newest(store) == 100


def test_what_is_read_is_deleted_later(store: CheckpointStore) -> None:
    with reader_of(save(store, 1)):
        save(store, 2), save(store, 3)
        assert names(store) == ["step-00000001", "step-00000002", "step-00000003"]
        assert Checkpoint.at(store.folder / "step-00000001", "full").step == 1
    save(store, 4)
    assert names(store) == ["step-00000003", "step-00000004"]


def test_what_is_read_is_set_aside_later(store: CheckpointStore, told: Told) -> None:
    save(store, 1)
    path = save(store, 2)
    with reader_of(path):
        flip_bit(path / SHARD, 0)
        assert newest(store) == 1
        assert "another process reads it" in told[0]
        assert path.exists()
    assert newest(store) == 1
    assert not path.exists()


def test_a_reader_holds_on_no_longer_than_it_reads(store: CheckpointStore) -> None:
    checkpoint = Checkpoint.at(save(store, 1))
    start, end = os.pipe()
    with checkpoint.reading():
        # A worker that is forked meanwhile shares the open file.
        if (child := os.fork()) == 0:
            os.close(end)
            os.read(start, 1)
            os._exit(0)
        with held_alone(checkpoint.path / MARKER) as alone:
            assert not alone
    with held_alone(checkpoint.path / MARKER) as alone:
        assert alone
    os.close(end)
    os.waitpid(child, 0)
    os.close(start)


def test_a_reader_that_comes_while_it_is_deleted_does_not_get_it(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(store, 1)
    take = locking._try_flock

    def late(*arguments: Any) -> bool | None:
        """The marker is open already, and moved away before it is locked."""
        path.rename(path.with_name(".step-00000001.deleting"))
        return take(*arguments)

    monkeypatch.setattr(locking, "_try_flock", late)
    with pytest.raises(GoneError):
        Checkpoint.at(path)


def test_a_checkpoint_that_was_deleted_meanwhile_is_said_to_be_gone(store: CheckpointStore) -> None:
    checkpoint = Checkpoint.at(save(store, 1))
    save(store, 2), save(store, 3)
    with pytest.raises(GoneError, match="step-00000001"), checkpoint.reading():
        pass


def test_an_onlooker_renames_nothing_and_looks_again_when_retention_was_quicker(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, told: Told
) -> None:
    save(store, 1)
    before = places(store.folder)
    save(store, 2), save(store, 3)
    flip = store.folder / "step-00000003"
    os.truncate(flip / SHARD, 0)
    answers = iter([before])
    look = layout.places
    monkeypatch.setattr(layout, "places", lambda folder: next(answers, None) or look(folder))
    assert find_checkpoint(store.folder.parent, told).step == 2
    assert "step-00000003 is damaged" in told[0]
    assert flip.exists()


def test_finds_checkpoints_of_runs_and_alone(store: CheckpointStore, told: Told) -> None:
    path = save(store, 1)
    assert find_checkpoint(path, told) == find_checkpoint(store.folder.parent, told)
    with pytest.raises(UserError, match="neither a run directory nor a checkpoint"):
        find_checkpoint(store.folder, told)
    (path / MARKER).rename(path / PENDING)
    with pytest.raises(UnfinishedError):
        find_checkpoint(path, told)
    with pytest.raises(UserError, match="no whole checkpoint yet"):
        find_checkpoint(store.folder.parent, told)


def test_a_folder_that_cannot_be_listed_is_not_taken_for_empty(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(path: Path) -> Iterator[Path]:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    assert store.newest() is None
    monkeypatch.setattr(Path, "iterdir", refusing)
    with pytest.raises(UserError, match="cannot look for checkpoints"):
        store.newest()


def test_the_newest_before_a_step_is_found_or_else_the_oldest(tmp_path: Path, told: Told) -> None:
    store = CheckpointStore(tmp_path, Retention(last=9), tell=told)
    assert store.newest_before(9) is None
    for step in (4, 8, 8, 12):
        save(store, step)
    assert [store.newest_before(step).path.name for step in (3, 5, 9, 12, 99)] == [  # type: ignore[union-attr]
        "step-00000004", "step-00000004", "step-00000008.2", "step-00000008.2", "step-00000012"
    ]  # fmt: skip
    flip_bit(tmp_path / "step-00000008.2" / SHARD, 5)
    assert store.newest_before(9) == Checkpoint.at(tmp_path / "step-00000004")
    assert "step-00000008.2.damaged" in names(store)


def test_what_a_run_goes_back_from_is_set_aside_and_counts_no_more(tmp_path: Path, told: Told) -> None:
    store = CheckpointStore(tmp_path, Retention(last=2), tell=told)
    for step in (4, 8):
        save(store, step)
    store.set_aside_after(Checkpoint.at(tmp_path / "step-00000004"))
    assert "set aside as step-00000008.diverged" in told[0]
    assert newest(store) == 4
    save(store, 8)
    assert names(store) == ["step-00000004", "step-00000008", "step-00000008.diverged"]
