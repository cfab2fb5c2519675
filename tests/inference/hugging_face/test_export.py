"""What an exported folder consists of, and what is not exported."""

import json
from pathlib import Path

import pytest
import tokenizers

from glm_data import DataError, load_tokenizer
from glm_data.tokenizers.hugging_face import HuggingFaceTokenizer
from glm_data.tokenizers.special_tokens import SpecialTokens
from glm_scale.checkpoint.exported_names import exported_name, own_name
from glm_scale.errors import UserError
from glm_scale.inference.hugging_face import sizes
from glm_scale.inference.hugging_face.sizes import exported_config, own_config
from glm_scale.inference.hugging_face.tokenizer import exported_tokenizer
from glm_scale.inference.weight_files import shapes_by_file
from glm_scale.model import LanguageModel, ModelConfig
from tests.data.corpora import documents
from tests.data.hugging_face import FAMILIES
from tests.inference.hugging_face.exported import STEP, export

ENDS = {"gpt2": ("<|endoftext|>",) * 2, "llama3": ("<|begin_of_text|>", "<|end_of_text|>"), "bert": ("[CLS]", "[SEP]")}


def test_the_folder_has_all_that_transformers_and_we_read(data: Path, tmp_path: Path) -> None:
    folder = export(data, tmp_path, {"mixers": ["lattice:2^k", "attention"]}).folder
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == [
        "README.md", "cache_glm_scale.py", "config.json", "configuration_glm_scale.py", "generation_config.json",
        "glm_scale/config.yaml", "glm_scale/tokenizer.model", "mixing_glm_scale.py", "model.safetensors",
        "modeling_glm_scale.py", "patterns_glm_scale.py", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    card = (folder / "README.md").read_text()
    for told in ("`lattice:2^k`, `attention`", f"12,345 tokens in sequences of 32, {STEP} steps", "3.5000 nats"):
        assert told in card
    config = json.loads((folder / "config.json").read_text())
    assert config["mixers"] == ["lattice:2^k", "attention"]
    # The vocabulary has been rounded up: what no token is of is never drawn.
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["suppress_tokens"] == list(range(load_tokenizer(data).size, 320))


@pytest.mark.parametrize("mixer", ["mamba2", "mamba2:32", "gla", "gated_deltanet", "kda", "log_linear"])
def test_published_baselines_are_refused_by_name(mixer: str) -> None:
    config = ModelConfig(vocab_size=64, layers=2, width=32, heads=2, mixers=("attention", mixer))
    with pytest.raises(UserError, match=f"mixer '{mixer}' cannot be exported .* export without --format hf"):
        exported_config(config)


def test_a_function_that_would_be_read_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(vocab_size=64, layers=2, width=32, heads=2, mixers=("lattice:2^k",))
    monkeypatch.setattr(sizes, "terms", lambda function, largest: (1, 2, 3))
    with pytest.raises(UserError, match=r"f\(k\) = 2\^k is not read alike"):
        exported_config(config)


def test_names_and_sizes_come_back() -> None:
    config = ModelConfig(
        vocab_size=64, layers=3, width=32, heads=2, mixers=("local:4 > lattice:k^2+1", "ssm"), conv_width=4
    )
    back = ModelConfig.model_validate(own_config(exported_config(config)))
    assert exported_config(back) == exported_config(config)
    for name, _ in LanguageModel(config).named_parameters(remove_duplicate=False):
        assert own_name(exported_name(name)) == name


def test_files_of_weights_are_no_larger_than_asked_for() -> None:
    shapes = {"a": (10,), "b": (5, 2), "c": (100,), "d": (1,)}
    assert shapes_by_file(shapes, itemsize=4, most=10**9) == {"model.safetensors": shapes}
    assert [list(part) for part in shapes_by_file(shapes, itemsize=4, most=80).values()] == [["a", "b"], ["c"], ["d"]]
    assert list(shapes_by_file(shapes, itemsize=4, most=80))[1] == "model-00002-of-00003.safetensors"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tokenizer_of_hugging_face_begins_every_text_as_in_training(family: str) -> None:
    trained = FAMILIES[family](documents(40))
    bos, eos = ENDS.get(family, ("<s>", "</s>"))
    if family == "bert":
        trained.post_processor = tokenizers.processors.BertProcessing((eos, 3), (bos, 2))
    said = {"add_bos_token": False, "pad_token": "[PAD]"} if family == "bert" else {}
    ours = HuggingFaceTokenizer(trained.to_str().encode(), SpecialTokens(bos, eos, said))
    files = exported_tokenizer(ours)
    exported = tokenizers.Tokenizer.from_buffer(files["tokenizer.json"])
    for text in documents(5):
        assert exported.encode(text).ids == [ours.bos, *ours.encode(text)]
    config = json.loads(files["tokenizer_config.json"])
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["pad_token"] == said.get("pad_token", eos)
    assert "add_bos_token" not in config


def test_nothing_is_left_of_an_export_that_fails(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise DataError("no such tokens")

    monkeypatch.setattr("glm_scale.inference.hugging_face.export.exported_tokenizer", none)
    with pytest.raises(DataError):
        export(data, tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["made-from"]
