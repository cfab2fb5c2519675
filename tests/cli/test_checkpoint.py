"""`glm-scale checkpoint`: what it says of checkpoints whole and damaged, and weights that others can read."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from torch import Tensor

from glm_launch.cli.app import main
from glm_scale.checkpoint import shards
from glm_scale.checkpoint.difference import tensor_differences
from glm_scale.checkpoint.exported_names import exported_name
from glm_scale.checkpoint.files import hash_file, write_synced
from glm_scale.checkpoint.pieces import Box, Piece
from glm_scale.checkpoint.retention import Retention
from glm_scale.checkpoint.shards import KINDS, save_pieces
from glm_scale.checkpoint.state import Counters, TrainingState
from glm_scale.checkpoint.store import CheckpointStore
from glm_scale.cli import checkpoint as command
from glm_scale.config import RunConfig, resolved_yaml
from glm_scale.inference.export import WEIGHTS_NAME
from glm_scale.model import LanguageModel
from tests.checkpoint.made_up import flip_bit
from tests.tiny_run import tiny_config

Weights = dict[str, Tensor]
Command = Callable[..., tuple[int, str]]
NAMES = [f"step-0000000{step}" for step in (2, 4, 6)]
TOKENIZER = b"a tokenizer"


def weights(step: int, config: RunConfig) -> Weights:
    return {name: p.detach() for name, p in LanguageModel(config.model, seed=step).named_parameters()}


def save(store: CheckpointStore, step: int, config: RunConfig, tensors: Weights, loss: float) -> None:
    """A checkpoint as one process saves it."""
    staging = store.begin(step)
    write_synced(staging / "config.yaml", resolved_yaml(config).encode())
    write_synced(staging / "tokenizer.model", TOKENIZER)
    pieces = [
        Piece(name, tuple(t.shape), Box((0,) * t.dim(), tuple(t.shape)), 0, {kind: t.flatten() for kind in KINDS})
        for name, t in tensors.items()
    ]
    save_pieces(staging, pieces, None, lambda point: None)
    state = TrainingState(Counters(step=step, tokens=1000 * step), step, {"cpu": "x" * 99}, loss)
    store.commit(staging, step, state, {path.name: hash_file(path) for path in staging.iterdir()})


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    tree = tiny_config(tmp_path / "data", tmp_path)
    tree["checkpoint"] = {"keep": 1, "keep_every": 4, "keep_best": 1}
    return RunConfig.model_validate(tree)


@pytest.fixture
def run(tmp_path: Path, config: RunConfig) -> Path:
    """The directory of a run with three checkpoints."""
    path = tmp_path / "tiny"
    store = CheckpointStore(path / "checkpoints", Retention(last=9), clock=lambda: 1e9)
    for step, loss in ((2, 3.25), (4, 3.5), (6, 3.75)):
        save(store, step, config, weights(step, config), loss)
    (path / "config.yaml").write_text(resolved_yaml(config))
    return path


@pytest.fixture
def checkpoint(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Exit code of `glm-scale checkpoint ARGUMENTS`, and what it prints."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["glm-scale", "checkpoint", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        told = capsys.readouterr()
        return int(caught.value.code or 0), told.out + told.err

    return call


def test_ls_shows_what_is_kept_and_why(run: Path, checkpoint: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.time, "time", lambda: 1e9 + 7200)
    code, told = checkpoint("ls", run)
    assert code == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in told.splitlines() if "│" in line]
    assert [row[:3] for row in rows] == [["2", "2,000", "3.2500"], ["4", "4,000", "3.5000"], ["6", "6,000", "3.7500"]]
    assert [row[4:] for row in rows] == [["2 h", "best", "ok"], ["2 h", "every", "ok"], ["2 h", "last", "ok"]]
    assert checkpoint("ls", run / "checkpoints") == (0, told)


def test_ls_names_what_does_not_count(run: Path, checkpoint: Command) -> None:
    folder = run / "checkpoints"
    (folder / NAMES[2] / "shard-00000.bin").unlink()
    (folder / NAMES[1]).rename(folder / f"{NAMES[1]}.damaged")
    CheckpointStore(folder, Retention(9)).begin(8)
    told = checkpoint("ls", run)[1]
    assert "damaged: shard-00000.bin is missing" in told
    assert f"damaged, set aside: {NAMES[1]}.damaged" in told
    assert "unfinished: .step-00000008.writing" in told


def test_verify_reads_everything(run: Path, checkpoint: Command) -> None:
    code, told = checkpoint("verify", run)
    assert (code, told.count("whole")) == (0, 3)
    flip_bit(run / "checkpoints" / NAMES[1] / "shard-00000.bin", 5000)
    code, told = checkpoint("verify", run)
    assert (code, told.count("whole"), told.count("damaged")) == (1, 2, 1)
    assert "content of shard-00000.bin has changed" in told
    assert checkpoint("verify", run / "checkpoints" / NAMES[0])[0] == 0
    assert (run / "checkpoints" / NAMES[1]).exists()


@pytest.mark.parametrize(("option", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_export_is_read_by_safetensors(
    run: Path, checkpoint: Command, config: RunConfig, tmp_path: Path, option: str, dtype: torch.dtype
) -> None:
    output = tmp_path / "exported"
    code, told = checkpoint("export", run, "--output", output, "--dtype", option)
    assert code == 0
    assert "step 6" in told
    assert sorted(path.name for path in output.iterdir()) == ["config.yaml", "model.safetensors", "tokenizer.model"]
    assert (output / "tokenizer.model").read_bytes() == TOKENIZER
    assert RunConfig.model_validate(yaml.safe_load((output / "config.yaml").read_text())).model == config.model
    expected = weights(6, config)
    with safe_open(output / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "step": "6"}
        assert set(file.keys()) == set(expected)
        for name, tensor in expected.items():
            assert torch.equal(file.get_tensor(name), tensor.to(dtype))


def test_export_takes_parameters_in_any_order(
    run: Path, checkpoint: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint("export", run, "-o", tmp_path / "one")
    read = shards.read_tensors
    monkeypatch.setattr(shards, "read_tensors", lambda *arguments: reversed(list(read(*arguments))))
    checkpoint("export", run, "-o", tmp_path / "other")
    assert hash_file(tmp_path / "one" / WEIGHTS_NAME) == hash_file(tmp_path / "other" / WEIGHTS_NAME)


def test_export_refuses_what_is_there_and_what_is_damaged(run: Path, checkpoint: Command, tmp_path: Path) -> None:
    output = tmp_path / "exported"
    output.mkdir()
    code, told = checkpoint("export", run, "-o", output)
    assert (code, "is there already" in told) == (2, True)
    flip_bit(run / "checkpoints" / NAMES[0] / "shard-00000.bin", 5000)
    code, told = checkpoint("export", run / "checkpoints" / NAMES[0], "-o", output / "new")
    assert (code, "is damaged" in told) == (2, True)
    assert not list(output.iterdir())


def test_export_takes_only_the_parameters_of_the_model(checkpoint: Command, config: RunConfig, tmp_path: Path) -> None:
    tensors = weights(1, config)
    name, weight = tensors.popitem()
    for step, held in (
        (1, tensors),
        (2, {**tensors, name: weight[:-1]}),
        (3, {**tensors, name: weight, "more": weight}),
    ):
        store = CheckpointStore(tmp_path / f"run-{step}" / "checkpoints", Retention(1))
        save(store, step, config, held, 1.0)
        code, told = checkpoint("export", store.folder.parent, "-o", tmp_path / "exported")
        assert code == 2
        assert "of the model that config.yaml describes" in told
        assert not (tmp_path / "exported").exists()


def test_export_for_transformers(
    data: Path, checkpoint: Command, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, output = CheckpointStore(tmp_path / "run" / "checkpoints", Retention(1)), tmp_path / "exported"
    save(store, 2, config, weights(2, config), 1.0)
    code, told = checkpoint("export", tmp_path / "run", "--format", "hf", "-o", output)
    assert (code, "not a SentencePiece model" in told) == (2, True)
    assert not output.exists()
    monkeypatch.setattr(sys.modules[__name__], "TOKENIZER", (data / "tokenizer.model").read_bytes())
    save(store, 4, config, weights(4, config), 1.0)
    code, told = checkpoint("export", tmp_path / "run", "--format", "hf", "-o", output)
    assert (code, f"wrote {output / WEIGHTS_NAME}" in told) == (0, True)
    with safe_open(output / WEIGHTS_NAME, framework="pt") as file:
        for name, tensor in weights(4, config).items():
            assert torch.equal(file.get_tensor(exported_name(name)), tensor)


def test_diff_of_one_and_the_same(run: Path, checkpoint: Command) -> None:
    code, told = checkpoint("diff", run, run / "checkpoints" / NAMES[2])
    assert code == 0
    assert "config: the same" in told
    assert "state: the same" in told
    assert "the same, bit for bit" in told


def test_diff_says_what_differs_and_by_how_much(
    run: Path, checkpoint: Command, config: RunConfig, tmp_path: Path
) -> None:
    tensors = weights(6, config)
    name = next(iter(tensors))
    tensors[name] = tensors[name] * 1.25
    store = CheckpointStore(tmp_path / "other" / "checkpoints", Retention(1))
    other = config.model_copy(update={"training": config.training.model_copy(update={"seed": 9})})
    save(store, 8, other, tensors, 3.75)
    told = checkpoint("diff", run, tmp_path / "other")[1]
    assert "training.seed: 0 → 9" in told
    assert "counters.tokens: 6000 → 8000" in told
    assert "validation_loss" not in told
    assert f"1 of {len(tensors)} parameters differ" in told
    row = next(line for line in told.splitlines() if name in line)
    assert row.count("2.50e-01") == 3


def test_diff_matches_names_in_any_order_and_names_what_is_missing() -> None:
    a, b = torch.arange(6.0), torch.tensor([0.0, 1, 2, 3, 4, 9])
    first = {"x": a, "y": a, "z": a, "nan": torch.full((2,), torch.nan)}
    second = {"w": a, "nan": first["nan"].clone(), "z": a.view(2, 3), "y": b}
    found = {
        difference.name: difference
        for difference in tensor_differences(
            *(iter([(name, {"weight": t}) for name, t in side.items()]) for side in (first, second))
        )
    }
    assert found["nan"].equal
    assert found["x"].remark == "only in the first"
    assert found["w"].remark == "only in the second"
    assert found["z"].remark == "shapes [6] and [2, 3]"
    assert found["y"].distances["weight"] == (4.0, pytest.approx(4 / 55**0.5))


def test_diff_names_moments_that_only_one_has() -> None:
    adamw, muon = {"weight": torch.ones(2), "exp_avg": torch.ones(2)}, {"weight": torch.ones(2)}
    (found,) = tensor_differences(iter([("x", adamw)]), iter([("x", muon)]))
    assert found.remark == "exp_avg only in one: of another optimizer"


@pytest.mark.parametrize("subcommand", ["ls", "verify"])
def test_a_place_without_checkpoints_is_refused(checkpoint: Command, tmp_path: Path, subcommand: str) -> None:
    code, told = checkpoint(subcommand, tmp_path)
    assert code == 2
    assert "holds no checkpoints" in told
