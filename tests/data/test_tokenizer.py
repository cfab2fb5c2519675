"""The tokenizer gives back every text exactly."""

import io
import pickle
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from glm_data import DataError, Tokenizer, train_tokenizer
from glm_data.tokenizers.sentence_piece import SentencePieceTokenizer
from glm_data.tokenizers.training import default_vocabulary_size

HARD_TEXTS = [
    "",
    " ",
    "   leading and trailing   ",
    "a  b   c    d",
    "\n\n\n\n\n",
    "\r\n\r\n mixed \n\r",
    "\ttabs\t\tand\tmore",
    "\0 nul \0\0",
    "▁ the space mark ▁▁ itself▁",
    " ▁ ▁  ▁",
    "▅ the unknown mark ⁇",
    "<s></s><unk><0x41><0x0A>",
    "\ufeffbyte order mark \ufffd replacement",
    "e\u0301 is not \u00e9; ﬁ is not fi; Å is not Å",
    "日本語のテキスト العربية ไทย 👩‍👩‍👧‍👦",
    "\U0010ffff\ud7ff\ue000",
    "x" * 20_000,
    " " * 20_000,
    ("word " * 5_000) + "\n" + ("日" * 9_000),
]


def train_foreign(**options: object) -> bytes:
    """A model that was trained with other options than ours."""
    model = io.BytesIO()
    sentences = ["hello world, how are you", "été à la mode", "ﬁne words"] * 20
    settings: dict[str, Any] = {"model_type": "bpe", "vocab_size": 320, "byte_fallback": True, "minloglevel": 2}
    settings |= options
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        **settings,
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def foreign() -> Tokenizer:
    """A unigram model with SentencePiece's default normalisation (NFKC), a space in front, gaps squeezed."""
    return SentencePieceTokenizer(train_foreign(model_type="unigram", hard_vocab_limit=False))


def check_round_trip(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert int(tokenizer.token_bytes[ids].sum()) == len(text.encode())
    assert all(0 <= index < tokenizer.size for index in ids)
    assert tokenizer.bos not in ids
    assert tokenizer.eos not in ids


@pytest.mark.parametrize("text", HARD_TEXTS, ids=range(len(HARD_TEXTS)))
def test_hard_texts_survive(tokenizer: Tokenizer, text: str) -> None:
    check_round_trip(tokenizer, text)


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_any_text_survives(tokenizer: Tokenizer, text: str) -> None:
    check_round_trip(tokenizer, text)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=" \n\t\r▁▅\0ab<>é", max_size=60))
def test_any_white_space_survives(tokenizer: Tokenizer, text: str) -> None:
    check_round_trip(tokenizer, text)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from(" \n▁ﬁÅ"))))
def test_any_text_survives_a_model_that_normalises(foreign: Tokenizer, text: str) -> None:
    check_round_trip(foreign, text)


def test_corpus_is_compressed(tokenizer: Tokenizer, texts: list[str]) -> None:
    tokens = sum(len(tokenizer.encode(text)) for text in texts)
    assert tokens < 0.6 * sum(len(text.encode()) for text in texts)


def test_cutting_a_long_line_changes_no_token(tokenizer: Tokenizer) -> None:
    line = "the said  these were   when we " * 900
    plain = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.files["tokenizer.model"])
    assert tokenizer.encode(line) == plain.encode(line)


def test_white_space_has_tokens_of_its_own(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("\n")) == len(tokenizer.encode("\n\n")) == len(tokenizer.encode("\t")) == 1


def test_lone_surrogates_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="UTF-8"):
        tokenizer.encode("half a pair \ud800")


def test_control_tokens_spell_nothing(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([tokenizer.bos, *tokenizer.encode("hi there"), tokenizer.eos]) == "hi there"
    assert tokenizer.token_bytes.shape == (tokenizer.size,)
    assert tokenizer.token_bytes.dtype == np.int32
    assert tokenizer.token_bytes[tokenizer.bos] == tokenizer.token_bytes[tokenizer.eos] == 0


def test_half_a_character_can_be_decoded_later(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("🂡")
    assert len(ids) == 4
    assert tokenizer.decode(ids[:2]) == "\ufffd"
    assert tokenizer.decode_bytes(ids[:2]) + tokenizer.decode_bytes(ids[2:]) == "🂡".encode()


def test_training_is_deterministic(texts: list[str], tokenizer: Tokenizer) -> None:
    assert train_tokenizer(texts, 512).files == tokenizer.files
    assert train_tokenizer(texts[:-1], 512).fingerprint != tokenizer.fingerprint


def test_pickling_keeps_the_tokenizer(tokenizer: Tokenizer) -> None:
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.fingerprint == tokenizer.fingerprint
    assert copy.encode("were they") == tokenizer.encode("were they")


def test_reserved_characters_do_not_cost_the_rest_of_a_line() -> None:
    tokenizer = train_tokenizer(["▅ unmistakable\0words ▁here " * 50], 330)
    assert len(tokenizer.encode(" unmistakable")) <= 3


def test_a_script_larger_than_the_vocabulary_can_be_learned() -> None:
    text = "".join(chr(0x4E00 + number % 5000) for number in range(20_000))
    tokenizer = train_tokenizer([text], 512)
    assert tokenizer.size <= 512
    check_round_trip(tokenizer, text[:5000])


def test_a_small_text_gives_a_smaller_vocabulary() -> None:
    tokenizer = train_tokenizer(["hello hello"], 4096)
    assert 262 < tokenizer.size < 300
    check_round_trip(tokenizer, "hello you")


@pytest.mark.parametrize("size", [10, 299, 1 << 21])
def test_a_vocabulary_out_of_range_is_refused(size: int) -> None:
    with pytest.raises(DataError, match=str(size)):
        train_tokenizer(["text"], size)


def test_white_space_alone_trains_nothing() -> None:
    with pytest.raises(DataError, match="white space"):
        train_tokenizer(["\n\n"], 512)


def test_models_that_cannot_spell_everything_are_refused() -> None:
    with pytest.raises(DataError, match="byte fallback"):
        SentencePieceTokenizer(train_foreign(byte_fallback=False, vocab_size=50))
    with pytest.raises(DataError, match="bos_id -1"):
        SentencePieceTokenizer(train_foreign(bos_id=-1))
    with pytest.raises(DataError, match="not a SentencePiece model"):
        SentencePieceTokenizer(b"\x1f\x8bsomething else entirely", "somewhere.model")


def test_vocabulary_grows_with_the_square_root_of_the_text() -> None:
    assert default_vocabulary_size(0) == 512
    assert default_vocabulary_size(12_000_000) == 4096
    assert default_vocabulary_size(10**9) == 32768
    assert default_vocabulary_size(10**12) == 65536
