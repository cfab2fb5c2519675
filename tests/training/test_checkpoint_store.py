"""Checkpoints on disk: whole or not there."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from glm_scale.errors import UserError
from glm_scale.training.checkpoint import Checkpoint, CheckpointStore
from glm_scale.training.checkpoint import store as store_module

KINDS = ("weight", "exp_avg", "exp_avg_sq")


def tensors(step: int) -> dict[str, dict[str, Tensor]]:
    torch.manual_seed(step)
    return {f"layer.{index}": {kind: torch.randn(3, index + 1) for kind in KINDS} for index in range(4)}


def save(store: CheckpointStore, step: int) -> Path:
    return store.save(step, iter(tensors(step).items()), {"counters": {"step": step}}, {"config.yaml": b"x: 1\n"})


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path, keep=2)


def test_gives_back_what_was_saved(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_FILE_BYTES", 100)
    path = save(store, 5)
    assert len(list(path.glob("weight-*.safetensors"))) > 1
    checkpoint = Checkpoint.at(path)
    assert (checkpoint.step, checkpoint.state) == (5, {"counters": {"step": 5}})
    assert (path / "config.yaml").read_text() == "x: 1\n"
    read = dict(checkpoint.tensors(KINDS))
    assert list(read) == list(tensors(5))
    for name, by_kind in tensors(5).items():
        for kind in KINDS:
            assert torch.equal(read[name][kind], by_kind[kind])


def test_keeps_the_newest(store: CheckpointStore) -> None:
    for step in (9, 10, 100):
        save(store, step)
    assert sorted(path.name for path in store.folder.iterdir()) == ["step-00000010", "step-00000100"]
    newest = store.newest()
    assert newest is not None
    assert newest.step == 100


def test_holds_no_pickle(store: CheckpointStore) -> None:
    suffixes = {path.suffix for path in save(store, 1).iterdir()}
    assert suffixes == {".safetensors", ".json", ".yaml"}


def test_a_save_that_dies_half_way_leaves_the_older_one(store: CheckpointStore) -> None:
    save(store, 1)

    def dying() -> Iterator[tuple[str, dict[str, Tensor]]]:
        yield from list(tensors(2).items())[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.save(2, dying(), {}, {})
    newest = store.newest()
    assert newest is not None
    assert newest.step == 1
    save(store, 3)
    assert sorted(path.name for path in store.folder.iterdir()) == ["step-00000001", "step-00000003"]


@pytest.mark.parametrize("damage", ["truncate", "delete", "garble manifest", "no manifest"])
def test_a_damaged_checkpoint_is_passed_over(
    store: CheckpointStore, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(store, 1)
    path = save(store, 2)
    weights, manifest = path / "weight-00000.safetensors", path / "checkpoint.json"
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "delete":
        weights.unlink()
    elif damage == "garble manifest":
        manifest.write_text(manifest.read_text()[:-9])
    else:
        manifest.unlink()
    newest = store.newest()
    assert newest is not None
    assert newest.step == 1
    assert "step-00000002" in caplog.text
    with pytest.raises(UserError, match="not a whole checkpoint"):
        Checkpoint.at(path)


def test_a_newer_format_is_named(store: CheckpointStore) -> None:
    path = save(store, 1)
    manifest = json.loads((path / "checkpoint.json").read_text())
    (path / "checkpoint.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(UserError, match="format is 99"):
        Checkpoint.at(path)


def test_a_full_disk_is_told_to_the_user(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module, "_write", full)
    with pytest.raises(UserError, match="No space left"):
        save(store, 1)
    assert store.newest() is None
