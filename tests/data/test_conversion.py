"""A SentencePiece model of byte pairs, and the tokenizer.json that is made of it, give the same tokens."""

import json
from functools import cache

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from glm_data import DataError, train_tokenizer
from glm_data.tokenizers import conversion
from glm_data.tokenizers.conversion import as_tokenizer_json
from glm_data.tokenizers.sentence_piece import SentencePieceTokenizer
from tests.data.corpora import documents
from tests.data.test_tokenizer import HARD_TEXTS, train_foreign

KINDS = ("ours", "normalising")


@cache
def pair(kind: str) -> tuple[SentencePieceTokenizer, tokenizers.Tokenizer]:
    if kind == "ours":
        made = train_tokenizer(documents(40), 700)
    else:
        made = SentencePieceTokenizer(train_foreign(hard_vocab_limit=False))
    converted = tokenizers.Tokenizer.from_buffer(as_tokenizer_json(made)["tokenizer.json"])
    converted.encode_special_tokens = True
    return made, converted


def check(kind: str, text: str) -> None:
    made, converted = pair(kind)
    ids = converted.encode(text).ids
    assert ids == [made.bos, *made.encode(text)]
    assert converted.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("text", HARD_TEXTS, ids=range(len(HARD_TEXTS)))
@pytest.mark.parametrize("kind", KINDS)
def test_hard_texts_have_the_same_tokens(kind: str, text: str) -> None:
    check(kind, text)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(KINDS), st.text())
def test_any_text_has_the_same_tokens(kind: str, text: str) -> None:
    check(kind, text)


@pytest.mark.parametrize("kind", KINDS)
def test_documents_have_the_same_tokens(kind: str) -> None:
    for text in documents(40):
        check(kind, text)


def test_it_says_how_documents_begin_and_end_and_that_padding_goes_in_front() -> None:
    config = json.loads(as_tokenizer_json(pair("ours")[0])["tokenizer_config.json"])
    assert (config["bos_token"], config["eos_token"], config["padding_side"]) == ("<s>", "</s>", "left")
    assert config["split_special_tokens"], "what looks like a control token is text"


def test_a_unigram_model_is_refused() -> None:
    unigram = SentencePieceTokenizer(train_foreign(model_type="unigram", hard_vocab_limit=False))
    with pytest.raises(DataError, match="other than one of byte pairs"):
        as_tokenizer_json(unigram)


def test_a_tokenizer_with_other_tokens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    merges = conversion._merges
    monkeypatch.setattr(conversion, "_merges", lambda proto: merges(proto)[:-20])
    with pytest.raises(DataError, match=r"takes .* apart otherwise: .*it cannot be exported"):
        as_tokenizer_json(pair("ours")[0])
