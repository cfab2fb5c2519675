"""Tokenizers of Hugging Face: their own tokens, texts and bytes; how documents begin and end; what is refused."""

import json
import pickle
from functools import cache
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from glm_data import BuildConfig, DataError, build, load_index, load_tokenizer
from glm_data.tokenizers.hugging_face import HuggingFaceTokenizer
from glm_data.tokenizers.special_tokens import SpecialTokens
from glm_data.verify import verify
from tests.data.corpora import build_corpus, documents, read_with_webdataset, write_jsonl
from tests.data.hugging_face import EXACT, FAMILIES, saved
from tests.data.test_tokenizer import HARD_TEXTS

TEXTS = documents(40)
PLAIN = "that was for it all"


@cache
def trained(family: str) -> tokenizers.Tokenizer:
    return FAMILIES[family](TEXTS)


def loaded(family: str) -> HuggingFaceTokenizer:
    ends = {"gpt2": ("<|endoftext|>",) * 2, "llama3": ("<|begin_of_text|>", "<|end_of_text|>")}
    bos, eos = ends.get(family, ("[CLS]", "[SEP]") if family == "bert" else ("<s>", "</s>"))
    return HuggingFaceTokenizer(trained(family).to_str().encode(), SpecialTokens(bos, eos, {}))


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_of_the_library(family: str) -> None:
    ours = loaded(family)
    for text in TEXTS:
        assert ours.encode(text) == trained(family).encode(text, add_special_tokens=False).ids
        assert ours.decode(ours.encode(text)) == trained(family).decode(ours.encode(text))


@pytest.mark.parametrize("text", HARD_TEXTS, ids=[repr(text[:12]) for text in HARD_TEXTS])
@pytest.mark.parametrize("family", EXACT)
def test_hard_texts_survive_where_that_is_promised(family: str, text: str) -> None:
    tokenizer = loaded(family)
    assert tokenizer.exact
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.token_bytes[ids].sum() == len(text.encode())


@given(text=st.text(max_size=60))
def test_any_text_survives(text: str) -> None:
    tokenizer = _llama3()
    assert tokenizer.decode(tokenizer.encode(text)) == text


@cache
def _llama3() -> HuggingFaceTokenizer:
    return loaded("llama3")


@pytest.mark.parametrize("family", ["bert", "unigram"])
def test_nothing_is_promised_that_is_not_kept(family: str) -> None:
    tokenizer = loaded(family)
    assert not tokenizer.exact
    assert tokenizer.decode(tokenizer.encode("The ﬁrst  WORD")) != "The ﬁrst  WORD"
    # Every word stands for the space in front of it, too, be it the first.
    ids = tokenizer.encode(PLAIN)
    assert tokenizer.decode_bytes(ids).decode() == f" {PLAIN}"
    assert tokenizer.token_bytes[ids].sum() == len(PLAIN) + 1


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "NFC"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
        {"decoder": None},
        {"added_tokens": [{"id": 0, "content": "<|endoftext|>", "single_word": False, "lstrip": True, "rstrip": False,
                           "normalized": False, "special": True}]},
    ],
    ids=["normalised", "a space in front", "no decoder", "spaces taken away"],
)  # fmt: skip
def test_whoever_changes_texts_promises_nothing(change: dict[str, object]) -> None:
    tree = json.loads(trained("gpt2").to_str()) | change
    ends = SpecialTokens("<|endoftext|>", "<|endoftext|>", {})
    assert not HuggingFaceTokenizer(json.dumps(tree).encode(), ends).exact


@pytest.mark.parametrize("family", FAMILIES)
def test_control_tokens_in_a_text_are_text(family: str) -> None:
    tokenizer = loaded(family)
    for token in ("<|endoftext|>", "<|end_of_text|>", "[SEP]", "</s>"):
        assert not {tokenizer.bos, tokenizer.eos} & set(tokenizer.encode(f"one {token} two"))
    assert tokenizer.decode([tokenizer.bos, tokenizer.eos]) == ""
    assert tokenizer.token_bytes[[tokenizer.bos, tokenizer.eos]].tolist() == [0, 0]


def test_what_utf8_cannot_write_is_refused() -> None:
    with pytest.raises(DataError, match="UTF-8"):
        loaded("gpt2").encode("half \ud83d a pair")


# How documents begin and end -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "beside", "ends"),
    [
        ("gpt2", {}, ("<|endoftext|>", "<|endoftext|>")),
        ("llama3", {}, ("<|begin_of_text|>", "<|end_of_text|>")),
        ("bert", {}, ("[CLS]", "[SEP]")),
        ("unigram", {}, ("<s>", "</s>")),
        ("bert", {"tokenizer_config": {"bos_token": "[MASK]", "eos_token": {"content": "[PAD]"}}}, ("[MASK]", "[PAD]")),
        ("unigram", {"config": {"eos_token_id": [0, 2]}}, ("<unk>", "<unk>")),
        ("bert", {"special_tokens_map": {"sep_token": "[PAD]", "cls_token": "[CLS]"}}, ("[CLS]", "[PAD]")),
    ],
)
def test_what_lies_beside_says_how_documents_end(
    tmp_path: Path, family: str, beside: dict[str, object], ends: tuple[str, str]
) -> None:
    tokenizer = load_tokenizer(saved(trained(family), tmp_path, **beside))
    assert (tokenizer.bos, tokenizer.eos) == tuple(trained(family).token_to_id(token) for token in ends)


def test_what_is_asked_for_comes_first(tmp_path: Path) -> None:
    folder = saved(trained("bert"), tmp_path, tokenizer_config={"bos_token": "[CLS]", "eos_token": "[SEP]"})
    tokenizer = load_tokenizer(folder, bos="[MASK]", eos="[PAD]")
    assert (tokenizer.bos, tokenizer.eos) == (4, 0)


def without_control_tokens(tmp_path: Path) -> Path:
    tree = json.loads(trained("gpt2").to_str())
    tree["added_tokens"] = [tree["added_tokens"][0] | {"content": "<|pad|>"}]
    tree["model"]["vocab"] = {
        "<|pad|>" if token == "<|endoftext|>" else token: index for token, index in tree["model"]["vocab"].items()
    }
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tree))
    return path


def test_if_nothing_says_it_the_tokens_are_asked_for(tmp_path: Path) -> None:
    path = without_control_tokens(tmp_path)
    with pytest.raises(DataError, match=r"--bos-token and --eos-token.*<\|pad\|>"):
        load_tokenizer(path)
    assert load_tokenizer(path, eos="<|pad|>").bos == 0
    with pytest.raises(DataError, match="no token '<nothing>'"):
        load_tokenizer(path, bos="<nothing>", eos="<|pad|>")


# What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b'{"model": {"vo', "damaged"),
        (b"[1, 2]", "damaged: a list"),
        (b'{"model": {"type": "BPE"}}', "no model with a vocabulary"),
        (
            b'{"version": "1.0", "model": {"type": "Magic", "vocab": {"</s>": 0, "<s>": 1}}}',
            "not a tokenizer of Hugging",
        ),
    ],
    ids=["cut off", "a list", "no vocabulary", "unknown"],
)
def test_what_is_no_tokenizer_is_told(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(DataError, match=rf"tokenizer\.json: .*{what}"):
        load_tokenizer(tmp_path)


def test_other_forms_are_told_how_to_become_this_one(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(DataError, match=r"has vocab\.json, but no tokenizer\.json\. .*save_pretrained"):
        load_tokenizer(tmp_path)


def test_ids_without_tokens_stand_for_nothing_and_huge_ones_are_refused() -> None:
    tree, ends = json.loads(trained("gpt2").to_str()), SpecialTokens("<|endoftext|>", "<|endoftext|>", {})
    tree["model"]["vocab"]["~~"] = 1_000
    tokenizer = HuggingFaceTokenizer(json.dumps(tree).encode(), ends)
    assert tokenizer.size == 1_001
    assert tokenizer.decode_bytes([999, 1_000]) == b"~~"
    tree["model"]["vocab"]["~~"] = 1 << 25
    with pytest.raises(DataError, match="has the id 33,554,432; the largest can be"):
        HuggingFaceTokenizer(json.dumps(tree).encode(), ends)


# In a data set ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_data_set_keeps_the_tokenizer_and_its_tokens(tmp_path: Path, family: str) -> None:
    given = saved(trained(family), tmp_path / "model")
    index = build_corpus(tmp_path, TEXTS, vocabulary_size=None, tokenizer=given, validation_fraction=0.2, workers=2)
    output = tmp_path / "set"
    assert index.tokenizer_files == ["tokenizer.json", "tokenizer_config.json"]
    assert (output / "tokenizer.json").read_bytes() == (given / "tokenizer.json").read_bytes()
    tokenizer = load_tokenizer(output)
    assert pickle.loads(pickle.dumps(tokenizer)).fingerprint == tokenizer.fingerprint == index.tokenizer_sha256
    samples = [s["tokens.npy"].tolist() for name in ("train", "validation") for s in read_with_webdataset(output, name)]
    wanted = [[tokenizer.bos, *trained(family).encode(t, add_special_tokens=False).ids, tokenizer.eos] for t in TEXTS]
    assert sorted(samples) == sorted(wanted)
    assert verify(output, load_index(output)) == []
    (output / "tokenizer_config.json").write_text("{}")
    assert "tokenizer_config.json: not the tokenizer that" in verify(output, load_index(output))[0]


def test_what_a_tokenizer_changes_is_counted_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    source = write_jsonl(tmp_path / "a.jsonl", ["that was for it", "A Capital", "and of the"])
    given = saved(trained("unigram"), tmp_path / "model")
    config = BuildConfig(inputs=[source], output=tmp_path / "set", tokenizer=given, validation_fraction=0.0, workers=1)
    index = build(config, Console()).index
    assert index.round_trip is not None
    assert (index.round_trip.documents, index.round_trip.changed) == (3, 1)
    said = " ".join(capsys.readouterr().out.split())
    assert "2 of 3 documents came back from it as they were; first in" in said
    assert "a.jsonl:2, where 'A Capital' came back as" in said
    exact = BuildConfig(
        inputs=[source], output=tmp_path / "exact", tokenizer=saved(trained("gpt2"), tmp_path / "gpt2"), workers=1
    )
    assert build(exact).index.round_trip is None
