"""Runs that begin with the weights of a model of Hugging Face, and exported folders that come back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from glm_data import train_tokenizer
from glm_scale.checkpoint.exported import exported_at
from glm_scale.config import RunConfig
from glm_scale.errors import UserError
from glm_scale.inference import load_model
from glm_scale.inference.export import export_again, export_weights
from glm_scale.inference.hugging_face.importing import model_in
from glm_scale.inference.hugging_face.sizes import exported_config, own_config
from glm_scale.inference.weight_files import write_weights
from glm_scale.model import LanguageModel, ModelConfig
from glm_scale.run.importing import import_run
from tests.commands import Commands
from tests.inference.hugging_face.exported import STEP, export
from tests.tiny_run import tiny_config

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 320, "hidden_size": 16,
    "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
}  # fmt: skip


def llama(folder: Path, **changes: Any) -> dict[str, torch.Tensor]:
    """Weights shaped as Llama, with one key and value for two heads, in a folder."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA | changes))
    shapes = {"model.embed_tokens.weight": (320, 16), "model.norm.weight": (16,), "lm_head.weight": (320, 16)}
    for layer in range(2):
        of_layer = {
            "input_layernorm": (16,), "self_attn.q_proj": (16, 16), "self_attn.k_proj": (8, 16),
            "self_attn.v_proj": (8, 16), "self_attn.o_proj": (16, 16), "post_attention_layernorm": (16,),
            "mlp.gate_proj": (32, 16), "mlp.up_proj": (32, 16), "mlp.down_proj": (16, 32),
        }  # fmt: skip
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in of_layer.items()}
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    one_by_one = ((name, {"weight": tensor}) for name, tensor in tensors.items())
    write_weights(folder, {"model.safetensors": shapes}, one_by_one, torch.float32, {}, lambda size: None)
    return tensors


def configured(data: Path, folder: Path, **model: Any) -> RunConfig:
    tree = tiny_config(data, folder)
    tree["model"] |= model
    return RunConfig.model_validate(tree)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_exported_folder_comes_back_bit_for_bit(data: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    exported = export(data, tmp_path, {"tie_embeddings": True}, dtype, shard_bytes=20_000)
    found = exported_at(exported.folder)
    assert found
    export_again(found, tmp_path / "back", lambda size: None)
    made_from = type("Origin", (), {"path": tmp_path / "made-from", "step": STEP})
    tensors = ((name, {"weight": p.detach()}) for name, p in exported.model.named_parameters())
    export_weights(made_from, tensors, tmp_path / "direct", dtype, lambda size: None)  # type: ignore[arg-type]
    names = sorted(path.name for path in (tmp_path / "direct").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "back").iterdir())
    for name in names:
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "direct" / name).read_bytes()


def test_a_run_begins_with_an_exported_model(data: Path, tmp_path: Path) -> None:
    exported = export(data, tmp_path, {})
    made = import_run(exported.folder, exported.config)
    assert made.drawn == []
    loaded = load_model(made.path)
    assert loaded.step == 0
    for name, parameter in exported.model.named_parameters():
        assert torch.equal(loaded.model.get_parameter(name), parameter), name
    with pytest.raises(UserError, match="is there already; give the run another name"):
        import_run(exported.folder, exported.config)


def test_layers_of_llama_are_replaced_and_the_rest_is_kept(data: Path, tmp_path: Path) -> None:
    theirs = llama(tmp_path / "llama")
    config = configured(data, tmp_path, mixers=["lattice:2^k", "ssm:4"], conv_width=4)
    made = import_run(tmp_path / "llama", config)
    assert made.shared == 2
    ours, fresh = load_model(made.path).model, LanguageModel(config.model, seed=config.training.seed)
    taken = {
        "embedding": "model.embed_tokens", "head": "lm_head", "norm": "model.norm",
        "blocks.0.mixer.stages.0.q": "model.layers.0.self_attn.q_proj",
        "blocks.1.mixer.o": "model.layers.1.self_attn.o_proj", "blocks.1.mlp.down": "model.layers.1.mlp.down_proj",
        "blocks.1.mlp_norm": "model.layers.1.post_attention_layernorm",
    }  # fmt: skip
    for name, key in taken.items():
        assert torch.equal(ours.get_parameter(f"{name}.weight"), theirs[f"{key}.weight"]), name
    values = theirs["model.layers.0.self_attn.v_proj.weight"]
    assert torch.equal(ours.get_parameter("blocks.0.mixer.v.weight"), torch.cat([values, values]))
    assert "blocks.0.mixer.stages.0.d.weight" in made.drawn
    assert "blocks.1.mixer.stages.0.q.weight" in made.drawn, "its shape follows from the state"
    assert not [name for name in made.drawn if "mlp" in name or name.endswith((".v.weight", ".o.weight"))]
    for name in made.drawn:
        assert torch.equal(ours.get_parameter(name), fresh.get_parameter(name)), name


def test_heads_share_keys_as_in_llama_if_that_is_asked_for(data: Path, tmp_path: Path) -> None:
    theirs = llama(tmp_path / "llama")
    made = import_run(tmp_path / "llama", configured(data, tmp_path, mixers=["attention"], kv_heads=1))
    assert (made.drawn, made.shared) == ([], 1)
    keys = load_model(made.path).model.get_parameter("blocks.0.mixer.stages.0.k.weight")
    assert torch.equal(keys, theirs["model.layers.0.self_attn.k_proj.weight"])


def test_folders_of_before_there_were_shared_keys_are_read() -> None:
    sizes = exported_config(ModelConfig(vocab_size=8, layers=1, width=16, heads=4))
    del sizes["num_key_value_heads"], sizes["qk_norm"]
    assert ModelConfig.model_validate(own_config(sizes)).kv_heads is None


def test_train_goes_on_from_it(command: Commands, data: Path, tmp_path: Path) -> None:
    llama(tmp_path / "llama")
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(tiny_config(data, tmp_path)))
    made = command("checkpoint", "import", tmp_path / "llama", config, "model.mixers=[attention,lattice:2^k]")
    assert made.code == 0, made.output
    assert "drawn: blocks.1.mixer.stages.0.d.weight" in made.stdout
    assert "note: 2 heads shared a key and a value there" in made.stdout
    trained = command("train", config, "model.mixers=[attention,lattice:2^k]")
    assert trained.code == 0, trained.output
    assert "going on from step 0 (step-00000000)" in trained.output
    asked = command("checkpoint", "import", tmp_path / "llama")
    assert asked.code == 2
    assert "give either CONFIG" in asked.stderr
    asked = command("generate", tmp_path / "llama")
    assert asked.code == 2
    assert "is a model of Hugging Face, of type 'llama'; a run can begin with one" in asked.stderr
    asked = command("checkpoint", "import", tmp_path / "llama", "-o", tmp_path / "out")
    assert asked.code == 2
    assert "was not written by `glm-scale checkpoint export --format hf`" in asked.stderr


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"attention_bias": True}, "config.json has biases in attention, which our models have not"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "rotary embeddings scaled by 'llama3'"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' instead of 'silu'"),
        ({"model_type": "gpt2"}, "a model of type 'gpt2' cannot be imported"),
        ({"hidden_size": 30, "head_dim": 15}, "describes no model of ours"),
        ({"num_hidden_layers": 3}, "it lacks: model.layers.2.input_layernorm.weight"),
    ],
)
def test_what_is_no_model_of_ours_is_refused(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    llama(tmp_path / "llama", **changes)
    with pytest.raises(UserError, match=told):
        list(model_in(tmp_path / "llama").weights())


def test_other_sizes_and_other_tokenizers_are_refused_before_anything_is_made(data: Path, tmp_path: Path) -> None:
    llama(tmp_path / "llama")
    with pytest.raises(UserError, match=r"set model.layers=2 model.norm_eps=1e-05"):
        import_run(tmp_path / "llama", configured(data, tmp_path, layers=3, norm_eps=1e-6))
    exported = export(data, tmp_path, {})
    other = train_tokenizer(["some other text"], 300).files["tokenizer.model"]
    (exported.folder / "glm_scale" / "tokenizer.model").write_bytes(other)
    with pytest.raises(UserError, match=r"was built with another tokenizer .* --tokenizer"):
        import_run(exported.folder, exported.config)
    assert not (tmp_path / "runs").exists()
    with pytest.raises(UserError, match=r"has no config.json"):
        model_in(tmp_path)


@pytest.mark.numeric
@pytest.mark.parametrize("groups", [2, 4])
@torch.no_grad()
def test_logits_are_those_of_transformers_llama(tmp_path: Path, groups: int) -> None:
    """With as many keys and values as groups of heads."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=320, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=groups, initializer_range=0.2,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path / "llama")
    found = model_in(tmp_path / "llama")
    ours = LanguageModel(found.config).eval()
    ours.load_state_dict(dict(found.weights()))
    tokens = torch.randint(320, (2, 200))
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=0, atol=1e-4)
