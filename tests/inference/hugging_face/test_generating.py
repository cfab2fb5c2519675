"""`generate` of transformers with exported models."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from glm_data.tokenizers.hugging_face import HuggingFaceTokenizer
from glm_data.tokenizers.special_tokens import SpecialTokens
from glm_scale.inference.generation import Generation
from glm_scale.inference.hugging_face.tokenizer import exported_tokenizer
from glm_scale.inference.sampling import Sampling
from tests.data.corpora import documents
from tests.data.hugging_face import FAMILIES
from tests.inference.hugging_face.exported import Export, export

transformers = pytest.importorskip("transformers")

HYBRID = {"mixers": ["lattice:2^k", "ssm:16", "local:4 > window:3", "attention"], "layers": 4, "conv_width": 4}
PROMPTS = ["abc", "", "hello world, this is a longer prompt than that"]


@pytest.fixture(scope="module")
def exported(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    return export(data, tmp_path_factory.mktemp("hf"), HYBRID)


def greedy(exported: Export, prompt: str, tokens: int) -> list[int]:
    generation = Generation(
        exported.model, exported.tokenizer, prompt, max_tokens=tokens, sampling=Sampling(temperature=0)
    )
    return list(generation._tokens())


def test_greedy_tokens_are_ours_alone_and_in_a_batch(exported: Export) -> None:
    model, tokenizer = exported.load(), transformers.AutoTokenizer.from_pretrained(exported.folder)
    alone = [greedy(exported, prompt, 40) for prompt in PROMPTS]
    inputs = tokenizer(PROMPTS, return_tensors="pt", padding=True)
    inputs.pop("token_type_ids", None)
    assert not inputs["attention_mask"][1, 0], "padding is in front"
    found = model.generate(**inputs, max_new_tokens=40, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    for row, wanted in enumerate(alone):
        ids = found[row].tolist()
        assert ids[: len(wanted)] == wanted
        assert all(token == exported.tokenizer.eos for token in ids[len(wanted) :])


def test_beams_and_sampled_sequences(exported: Export) -> None:
    """A batch is reordered in the cache as in one that is read again from the beginning."""
    model = exported.load()
    tokens, mask = exported.batch([9, 4])
    asked = {"input_ids": tokens, "attention_mask": mask, "max_new_tokens": 12, "num_beams": 3, "do_sample": False}
    with_cache, without = (model.generate(**asked, use_cache=use_cache) for use_cache in (True, False))
    assert torch.equal(with_cache, without)
    sampled = model.generate(tokens, attention_mask=mask, max_new_tokens=5, do_sample=True, num_return_sequences=3)
    assert len(sampled) == 6
    assert int(sampled.max()) < exported.tokenizer.size


def test_a_text_goes_on_from_the_cache_of_another_call(exported: Export) -> None:
    model = exported.load()
    tokens, mask = exported.batch([12])
    told = model.generate(tokens, attention_mask=mask, max_new_tokens=10, do_sample=False, return_dict_in_generate=True)
    at_once = model.generate(tokens, attention_mask=mask, max_new_tokens=20, do_sample=False)
    name = "cache" if "cache" in told else "past_key_values"
    on = model.generate(told.sequences, max_new_tokens=10, do_sample=False, **{name: told[name]})
    assert torch.equal(on, at_once)


def test_tokens_are_those_of_training(exported: Export) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported.folder)
    for text in ("abc def", " a\u2581b\n\n\tc ", "<s> is text </s>", "漢字 🙂"):
        ids = tokenizer(text)["input_ids"]
        assert ids == [exported.tokenizer.bos, *exported.tokenizer.encode(text)]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("family", ["gpt2", "llama3"])
def test_a_tokenizer_of_hugging_face_is_read_as_it_was_in_training(family: str, tmp_path: Path) -> None:
    bos, eos = {"gpt2": ("<|endoftext|>",) * 2, "llama3": ("<|begin_of_text|>", "<|end_of_text|>")}[family]
    content = FAMILIES[family](documents(40)).to_str().encode()
    ours = HuggingFaceTokenizer(content, SpecialTokens(bos, eos, {"tokenizer_class": "GPT2Tokenizer"}))
    for name, written in exported_tokenizer(ours).items():
        (tmp_path / name).write_bytes(written)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in documents(5):
        assert tokenizer(text)["input_ids"] == [ours.bos, *ours.encode(text)]
        assert tokenizer.decode(ours.encode(text)) == text


def test_masks_and_positions_that_cannot_be_had_are_refused(exported: Export) -> None:
    model = exported.load()
    tokens, _ = exported.batch([6])
    for mask in ([[1, 0, 1, 1, 1, 1]], [[0, 1, 1, 0, 1, 1]]):
        with pytest.raises(ValueError, match="padding within a sequence"):
            model(tokens, attention_mask=torch.tensor(mask))
    with pytest.raises(ValueError, match=r"attention_mask is \[1, 4\]; it has to be \[1, 6\]"):
        model(tokens, attention_mask=torch.ones(1, 4))
    with pytest.raises(ValueError, match="packed documents are not supported"):
        model(tokens, position_ids=torch.tensor([[0, 1, 2, 0, 1, 2]]))
    model(tokens, position_ids=torch.arange(6)[None])
    with pytest.raises(ValueError, match="stateful"):
        model.generate(tokens, max_new_tokens=3, assistant_model=model)


@pytest.mark.parametrize("option", ["fp32", "bf16"])
def test_tied_weights_in_several_files(data: Path, tmp_path: Path, option: str) -> None:
    dtype = torch.float32 if option == "fp32" else torch.bfloat16
    exported = export(data, tmp_path, {"tie_embeddings": True}, dtype, shard_bytes=20_000)
    files = sorted(path.name for path in exported.folder.glob("*.safetensors"))
    assert len(files) > 1
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    model = exported.load(dtype=torch.float32)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    for name, parameter in exported.model.named_parameters():
        found = model.get_parameter(
            "model." + name.replace("embedding.", "embed_tokens.").replace("blocks.", "layers.")
        )
        assert torch.equal(found, parameter.to(dtype).float()), name
    model.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "modeling_glm_scale.py").is_file()


WITHOUT_US = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("glm_scale", "glm_kernels", "glm_data", "glm_launch"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, given, result = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder)
ids = tokenizer("abc", return_tensors="pt")["input_ids"]
with torch.no_grad():
    logits = model(load_file(given)["tokens"]).logits
save_file({"logits": logits, "text": model.generate(ids, max_new_tokens=20, do_sample=False)}, result)
assert not any(name.startswith("glm_") for name in sys.modules)
"""


@pytest.mark.exact
@pytest.mark.numeric
@torch.no_grad()
def test_the_folder_needs_torch_and_transformers_only(exported: Export, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tokens, _ = exported.batch([70, 70])
    save_file({"tokens": tokens}, tmp_path / "given")
    command = [sys.executable, "-c", WITHOUT_US, str(exported.folder), str(tmp_path / "given"), str(tmp_path / "made")]
    place = str(Path(transformers.__file__).parents[1])
    environment = {"PYTHONPATH": place, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr
    found = load_file(tmp_path / "made")
    torch.testing.assert_close(found["logits"], exported.model(tokens), rtol=0, atol=1e-5)
    prompt = [exported.tokenizer.bos, *exported.tokenizer.encode("abc")]
    wanted = prompt + greedy(exported, "abc", 20)
    assert found["text"][0].tolist()[: len(wanted)] == wanted
