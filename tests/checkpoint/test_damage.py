"""Damaged checkpoints: named, set aside, and the one before taken."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from glm_scale.checkpoint.layout import places
from glm_scale.checkpoint.manifest import MANIFEST, MARKER, Manifest, marker_of
from glm_scale.checkpoint.reading import Checkpoint, DamagedError
from glm_scale.checkpoint.store import CheckpointStore
from glm_scale.errors import UserError
from tests.checkpoint.made_up import SHARDS, Told, flip_bit, names, newest, save, state_at

SHARD = SHARDS[1]


def rewrite_manifest(path: Path) -> None:
    """Valid JSON, but not what was committed."""
    tree = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps(tree | {"state": {"counters": {"step": 3}}}))


def shard_a_folder(path: Path) -> None:
    (path / SHARD).unlink()
    (path / SHARD).mkdir()


def emptied(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def of_another_step(path: Path) -> None:
    shutil.rmtree(path)
    shutil.copytree(path.with_name("step-00000001"), path)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda path: os.truncate(path / SHARD, 2999), f"{SHARD} has 2999 bytes instead of 3000"),
    "emptied": (lambda path: os.truncate(path / SHARD, 0), f"{SHARD} has 0 bytes"),
    "bit flipped": (lambda path: flip_bit(path / SHARD, 1234), f"content of {SHARD} has changed"),
    "missing": (lambda path: (path / SHARD).unlink(), f"{SHARD} is missing"),
    "a folder": (shard_a_folder, f"{SHARD} is no regular file"),
    "foreign": (lambda path: (path / "shard-00002.bin").write_bytes(b"x"), "shard-00002.bin does not belong to it"),
    "manifest truncated": (lambda path: os.truncate(path / MANIFEST, 100), MANIFEST),
    "manifest bit flipped": (lambda path: flip_bit(path / MANIFEST, 40), MANIFEST),
    "manifest rewritten": (rewrite_manifest, f"{MANIFEST} and {MARKER} do not belong together"),
    "manifest missing": (lambda path: (path / MANIFEST).unlink(), MANIFEST),
    "marker missing": (lambda path: (path / MARKER).unlink(), f"marker {MARKER} is missing"),
    "marker emptied": (lambda path: os.truncate(path / MARKER, 0), MARKER),
    "marker bit flipped": (lambda path: flip_bit(path / MARKER, 3), MARKER),
    "everything missing": (emptied, "is missing"),
    "of another step": (of_another_step, "it is of step 1"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_set_aside_and_the_one_before_taken(
    store: CheckpointStore, damage: str, told: Told
) -> None:
    save(store, 1)
    path = save(store, 2)
    harm, problem = DAMAGES[damage]
    harm(path)
    left = {file.name for file in path.iterdir()}
    assert newest(store) == 1
    assert len(told) == 1
    assert str(path) in told[0]
    assert problem in told[0]
    assert names(store) == ["step-00000001", "step-00000002.damaged"]
    assert {file.name for file in (store.folder / "step-00000002.damaged").iterdir()} == left
    save(store, 2), save(store, 3)
    assert names(store) == ["step-00000002", "step-00000002.damaged", "step-00000003"]


def test_sizes_alone_do_not_tell_a_flipped_bit(store: CheckpointStore) -> None:
    path = save(store, 1)
    flip_bit(path / SHARD, 0)
    assert store.newest("sizes") is not None
    with pytest.raises(DamagedError, match="has changed"):
        Checkpoint.at(path, "full")
    assert Checkpoint.at(path).wrong_content([SHARDS[0]]) is None


def test_all_damaged_leaves_none_and_deletes_none(store: CheckpointStore, told: Told) -> None:
    for step in (1, 2):
        flip_bit(save(store, step) / SHARD, 0)
    assert newest(store) is None
    assert len(told) == 2
    save(store, 2)
    flip_bit(store.folder / "step-00000002" / SHARD, 0)
    assert newest(store) is None
    assert names(store) == ["step-00000001.damaged", "step-00000002.damaged", "step-00000002.damaged-2"]


def test_a_damaged_checkpoint_does_not_stand_for_a_whole_one(store: CheckpointStore) -> None:
    save(store, 1)
    (save(store, 2) / SHARD).unlink()
    save(store, 3)
    assert [place.step for place in places(store.folder)] == [1, 2, 3]


def test_a_failing_disk_is_damage_and_a_refusal_is_not(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(store, 1)
    read_bytes = Path.read_bytes

    def failing(number: int) -> Callable[[Path], bytes]:
        def read(file: Path) -> bytes:
            if file.name == MANIFEST:
                raise OSError(number, os.strerror(number), str(file))
            return read_bytes(file)

        return read

    monkeypatch.setattr(Path, "read_bytes", failing(errno.EACCES))
    with pytest.raises(UserError, match="Permission denied"):
        store.newest()
    assert path.exists()
    monkeypatch.setattr(Path, "read_bytes", failing(errno.EIO))
    assert store.newest() is None
    assert names(store) == ["step-00000001.damaged"]


def test_other_formats_are_refused_not_passed_over(store: CheckpointStore) -> None:
    save(store, 1)
    path = save(store, 2)
    newer = (path / MANIFEST).read_bytes().replace(b'"format": 2', b'"format": 99')
    (path / MANIFEST).write_bytes(newer)
    (path / MARKER).write_bytes(marker_of(newer))
    with pytest.raises(UserError, match=r"step-00000002: its format is 99"):
        store.newest()
    (store.folder / "step-00000003").mkdir()
    (store.folder / "step-00000003" / "checkpoint.json").write_text("{}")
    with pytest.raises(UserError, match=r"step-00000003 is a checkpoint of format 1"):
        store.newest()


@pytest.mark.parametrize(
    "change",
    [
        {"step": "x"},
        {"files": {"../x": {"size": 1, "sha256": "0" * 64}}},
        {"files": {MARKER: {"size": 1, "sha256": "0" * 64}}},
        {"files": {"x": {"size": -1, "sha256": "0" * 64}}},
        {"files": {"x": {"size": 1, "sha256": "zz"}}},
        {"files": ["x"]},
        {"state": 7},
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    tree = json.loads(Manifest(1, state_at(1), {}, 0.0).encode())
    with pytest.raises(ValueError, match=r".+"):
        Manifest.decode(json.dumps(tree | change).encode())
