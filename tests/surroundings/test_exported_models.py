"""`generate` and `evaluate` take what `checkpoint export` has written, and say what is wrong with it."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from glm_data import DataError
from glm_scale.config import RunConfig, resolved_yaml
from glm_scale.errors import UserError
from glm_scale.inference import load_model
from glm_scale.inference.export import export_weights
from glm_scale.model import LanguageModel
from tests.tiny_run import tiny_config


def export(data: Path, folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Path, LanguageModel]:
    """A model that was never trained, exported, and the model."""
    tree = tiny_config(data, folder)
    tree["model"]["tie_embeddings"] = True
    config, made_from = RunConfig.model_validate(tree), folder / "made-from"
    made_from.mkdir()
    (made_from / "config.yaml").write_text(resolved_yaml(config))
    (made_from / "tokenizer.model").write_bytes((data / "tokenizer.model").read_bytes())
    model, output = LanguageModel(config.model, seed=5), folder / "exported"
    tensors = ((name, {"weight": p.detach()}) for name, p in model.named_parameters())
    export_weights(SimpleNamespace(path=made_from, step=7), tensors, output, dtype, lambda size: None)  # type: ignore[arg-type]
    return output, model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_exported_model_is_the_one_that_was_exported(data, tmp_path, dtype):
    output, model = export(data, tmp_path, dtype)
    for path in (output, output / "model.safetensors"):
        loaded = load_model(path)
        assert loaded.step == 7
        assert loaded.model.head.weight is loaded.model.embedding.weight
        for name, parameter in model.named_parameters():
            read = loaded.model.get_parameter(name)
            assert read.dtype == torch.float32
            torch.testing.assert_close(read, parameter.to(dtype).float(), rtol=0, atol=0)


def test_commands_take_an_exported_model(command, data, tmp_path):
    output, _ = export(data, tmp_path)
    written = command("generate", output, "--prompt", "abc", "--tokens", "5")
    assert written.code == 0, written.output
    assert written.stdout.startswith("abc")
    judged = command("evaluate", output, "--rows", "2")
    assert judged.code == 0, judged.output
    assert "at step 7" in judged.stdout
    (output / "config.yaml").unlink()
    for subcommand in ("generate", "evaluate"):
        refused = command(subcommand, output)
        assert refused.code == 2, refused.output
        assert refused.stderr.startswith(f"error: {output} looks like an exported model but lacks config.yaml")


def rewrite(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def work(output: Path) -> None:
        tensors = load_file(output / "model.safetensors")
        change(tensors)
        save_file(tensors, output / "model.safetensors")

    return work


def another_width(output: Path) -> None:
    tree = yaml.safe_load((output / "config.yaml").read_text())
    tree["model"]["width"] = 32
    (output / "config.yaml").write_text(yaml.safe_dump(tree))


def cut(output: Path) -> None:
    whole = (output / "model.safetensors").read_bytes()
    (output / "model.safetensors").write_bytes(whole[:-100])


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (cut, "model.safetensors .* damaged or no safetensors file"),
        (lambda output: (output / "model.safetensors").write_bytes(b""), "damaged or no safetensors file"),
        (lambda output: (output / "model.safetensors").write_bytes(b"\xff" * 1000), "damaged or no safetensors file"),
        (lambda output: (output / "model.safetensors").unlink(), "lacks model.safetensors; export it again"),
        (lambda output: (output / "tokenizer.model").unlink(), "lacks a tokenizer; export it again"),
        (lambda output: (output / "tokenizer.model").write_bytes(b"none"), "not a SentencePiece model"),
        (lambda output: (output / "config.yaml").write_bytes(b"\xff\xfe\x00"), "config.yaml is damaged"),
        (lambda output: (output / "config.yaml").write_text("a: [1"), "config.yaml is damaged"),
        (lambda output: (output / "config.yaml").write_text(""), "config.yaml holds no configuration"),
        (another_width, r"embedding.weight is float32 \[320, 16\], but the model has numbers \[320, 32\] there"),
        (rewrite(lambda tensors: tensors.pop("norm.weight")), "it lacks: norm.weight"),
        (rewrite(lambda tensors: tensors.update(more=torch.ones(1))), "holds more than the model has: more"),
        (rewrite(lambda t: t.update({"norm.weight": t["norm.weight"].int()})), r"norm.weight is int32 \[16\]"),
    ],
)
def test_a_damaged_one_is_refused_by_the_name_of_its_file(data, tmp_path, damage, told):
    output, _ = export(data, tmp_path)
    damage(output)
    with pytest.raises((UserError, DataError), match=told):
        load_model(output)


def test_what_was_never_exported_is_neither(tmp_path):
    (tmp_path / "config.yaml").write_text("name: a run that has not begun")
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="is neither a run directory nor a checkpoint"):
            load_model(path)
