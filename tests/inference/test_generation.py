"""Streaming generation: whole characters, sampling by its definition, and the same text as without caches."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glm_scale.errors import UserError
from glm_scale.inference.generation import Generation, TextStream
from glm_scale.inference.sampling import Sampling
from glm_scale.model import LanguageModel, ModelConfig


class ByteCodec:
    """Bytes as tokens 0–255, with one token for " the" and, like SentencePiece, no space before the first word."""

    size, bos, eos, the = 259, 256, 257, 258

    def encode(self, text):
        pieces = text.encode().split(b" the")
        return [*pieces[0], *(token for piece in pieces[1:] for token in (self.the, *piece))]

    def decode(self, ids):
        data = b"".join(b" the" if i == self.the else bytes([i]) if i < 256 else b"" for i in ids)
        text = data.decode("utf-8", errors="replace")
        return text.removeprefix(" ") if ids and ids[0] == self.the else text


CODEC = ByteCodec()


def model(mixers=("lattice:2^k",), vocab_size=CODEC.size):
    config = ModelConfig(vocab_size=vocab_size, layers=2, width=16, heads=2, mixers=mixers, conv_width=2)
    built = LanguageModel(config, seed=1)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.mul_(4)
    return built


@given(st.text(alphabet=st.sampled_from("ab é€🙂\n the\ufffd"), max_size=12), st.sampled_from(["", "x", "é", " the"]))
def test_streamed_pieces_join_to_the_text_and_never_show_half_a_character(text, prompt):
    stream = TextStream(CODEC, [CODEC.bos, *CODEC.encode(prompt)])
    pieces = [stream.push(token) for token in CODEC.encode(text)] + [stream.flush()]
    assert "".join(pieces) == text


def test_characters_appear_as_soon_as_they_are_whole():
    stream = TextStream(CODEC, [CODEC.bos])
    assert [stream.push(token) for token in "a€b".encode()] == ["a", "", "", "€", "b"]


def test_bytes_that_never_become_a_character_are_shown_at_the_end():
    stream = TextStream(CODEC, [CODEC.bos])
    assert stream.push("€".encode()[0]) == ""
    assert stream.flush() == "\ufffd"


@pytest.mark.parametrize("mixers", [("lattice:2^k",), ("attention",), ("ssm:4", "local:3")])
def test_greedy_text_is_what_the_model_says_without_caches(mixers):
    untrained = model(mixers)
    generation = Generation(untrained, CODEC, "so", max_tokens=25, sampling=Sampling(temperature=0))
    text = "".join(generation)
    tokens = [CODEC.bos, *CODEC.encode("so")]
    for _ in range(25):
        tokens.append(int(untrained(torch.tensor([tokens]))[0, -1].argmax()))
        if tokens[-1] == CODEC.eos:
            break
    assert text == CODEC.decode(tokens).removeprefix("so")
    assert text


def test_the_same_seed_draws_the_same_text_and_another_seed_another():
    def text(seed):
        return "".join(Generation(model(), CODEC, "a", max_tokens=30, sampling=Sampling(seed=seed)))

    assert text(1) == text(1)
    assert text(1) != text(2)


def test_the_report_counts_tokens_and_the_bytes_of_the_caches():
    untrained = model(("attention",))
    generation = Generation(untrained, CODEC, "abc", max_tokens=10, sampling=Sampling(temperature=0))
    assert list(generation)
    report = generation.report
    assert (report.prompt_tokens, report.new_tokens, report.cached_tokens) == (4, 10, 13)
    # Two layers of 13 keys and 13 values of 16 numbers, the row that the convolution reads, and a position; and room
    # for 14.
    assert report.cache_bytes == untrained.cache_bytes(13) == 2 * ((2 * 13 * 16 + 16) * 4 + 8)
    assert report.allocated_bytes == 2 * ((2 * 14 * 16 + 16) * 4 + 8)
    assert report.cache_rows == {"attention": 13}
    assert report.tokens_per_second == pytest.approx(9 / report.decode_seconds)
    assert "4 prompt tokens" in str(report)
    assert f"cache {report.cache_bytes:,} bytes after 13 tokens (13 rows a layer; " in str(report)
    assert f"{report.allocated_bytes:,} bytes allocated)" in str(report)


def test_rows_of_the_caches_are_told_mixer_by_mixer():
    hybrid = Generation(model(("lattice:2^k", "ssm:4")), CODEC, "abc", max_tokens=10, sampling=Sampling(temperature=0))
    assert list(hybrid)
    rows = hybrid.report.cache_rows
    assert rows["ssm:4"] is None
    assert f"{rows['lattice:2^k']} rows a layer of lattice:2^k, one state a layer of ssm:4" in str(hybrid.report)


def test_generation_stops_at_the_end_of_the_document():
    ending = model()
    with torch.no_grad():
        ending.head.weight.zero_()
        ending.head.weight[CODEC.eos] = 1e3 * ending.norm(ending.embedding.weight[CODEC.bos])
        ending.blocks.apply(lambda module: [p.zero_() for p in module.parameters(recurse=False)])
    generation = Generation(ending, CODEC, "", max_tokens=10)
    assert list(generation) == []
    assert generation.report.ended
    assert generation.report.new_tokens == 0


def test_tokens_beyond_the_tokenizer_are_never_drawn():
    """A vocabulary may be padded; the padding is no text."""
    padded = model(vocab_size=320)
    with torch.no_grad():
        padded.head.weight[CODEC.size :] = 100 * padded.head.weight[: 320 - CODEC.size]
    assert "".join(Generation(padded, CODEC, "a", max_tokens=20))


def test_a_tokenizer_larger_than_the_model_is_refused():
    with pytest.raises(UserError, match="259 tokens but the model's vocabulary 200"):
        Generation(model(vocab_size=200), CODEC, "a", max_tokens=1)
