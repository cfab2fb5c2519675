"""`generate` and `evaluate` take what was exported for transformers, and say what is wrong with it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from glm_data import DataError
from glm_scale.errors import UserError
from glm_scale.inference import load_model
from tests.commands import Commands
from tests.inference.hugging_face.exported import STEP, Export, export

HYBRID = {"mixers": ["lattice:2^k", "local:4 > window:3"], "conv_width": 4, "tie_embeddings": True}
SMALL = 20_000


@pytest.mark.parametrize("shard_bytes", [10**9, SMALL])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_the_model_that_was_exported(data: Path, tmp_path: Path, dtype: torch.dtype, shard_bytes: int) -> None:
    exported = export(data, tmp_path, HYBRID, dtype, shard_bytes)
    for path in (exported.folder, next(exported.folder.glob("*.safetensors"))):
        loaded = load_model(path)
        assert loaded.step == STEP
        assert loaded.config == exported.config
        assert loaded.tokenizer.fingerprint == exported.tokenizer.fingerprint
        assert loaded.model.head.weight is loaded.model.embedding.weight
        for name, parameter in exported.model.named_parameters():
            assert torch.equal(loaded.model.get_parameter(name), parameter.to(dtype).float()), name


def test_commands_take_it(command: Commands, data: Path, tmp_path: Path) -> None:
    folder = export(data, tmp_path, HYBRID).folder
    written = command("generate", folder, "--prompt", "abc", "--tokens", "5")
    assert written.code == 0, written.output
    assert written.stdout.startswith("abc")
    judged = command("evaluate", folder, "--rows", "2")
    assert judged.code == 0, judged.output
    assert f"at step {STEP}" in judged.stdout
    text = tmp_path / "more.txt"
    text.write_text("abc def gha\n" * 400)
    built = command("data", "build", "--input", text, "--tokenizer", folder, "--output", tmp_path / "more")
    assert built.code == 0, built.output
    judged = command("evaluate", folder, "--data", tmp_path / "more", "--split", "train", "--rows", "2")
    assert judged.code == 0, judged.output


def second(folder: Path) -> Path:
    return sorted(folder.glob("model-*.safetensors"))[1]


def cut(folder: Path) -> None:
    second(folder).write_bytes(second(folder).read_bytes()[:-100])


def renamed(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere"}}))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (cut, r"model-00002-of-.* damaged or no safetensors file .* --format hf"),
        (
            lambda folder: second(folder).unlink(),
            "model-00002-of-.* cannot be read",
        ),
        (lambda folder: (folder / "model.safetensors.index.json").unlink(), "lacks model.safetensors; export it again"),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("[]"), "index.json is damaged: a list"),
        (renamed, "index.json .* names no files of this folder"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is damaged"),
        (lambda folder: (folder / "glm_scale" / "config.yaml").unlink(), "lacks glm_scale/config.yaml; export it"),
        (lambda folder: (folder / "glm_scale" / "tokenizer.model").unlink(), "lacks a tokenizer in glm_scale"),
        (lambda folder: (folder / "glm_scale" / "tokenizer.model").write_bytes(b"none"), "not a SentencePiece model"),
    ],
)
def test_a_damaged_one_is_refused_by_the_name_of_its_file(
    data: Path, tmp_path: Path, damage: Callable[[Path], object], told: str
) -> None:
    exported: Export = export(data, tmp_path, {}, shard_bytes=SMALL)
    damage(exported.folder)
    with pytest.raises((UserError, DataError), match=told):
        load_model(exported.folder)
