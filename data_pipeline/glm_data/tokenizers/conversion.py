"""A SentencePiece model of byte pairs as a tokenizer.json of Hugging Face's `tokenizers`, with the same tokens.

SentencePiece spells a space as U+2581. Here spaces stay spaces in the vocabulary, so nothing has to be normalised and a
U+2581 of the text is spelled in bytes, as `SentencePieceTokenizer` does. User-defined symbols become added tokens,
which are found before anything is merged. Merges are all pairs of pieces that make a piece, the best score first.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

from sentencepiece import sentencepiece_model_pb2

from glm_data.errors import DataError
from glm_data.tokenizers.contract import Tokenizer
from glm_data.tokenizers.names import CONFIG_NAME, JSON_NAME
from glm_data.tokenizers.sentence_piece import SPACE, SentencePieceTokenizer

_Piece = sentencepiece_model_pb2.ModelProto.SentencePiece

# What tokenizers have taken apart in different ways.
_HOSTILE = (
    "", " ", "  ", "\n", "\n\n\n", " \n ", "\t\t", "\r\n", "a", " a", "a ", "a  b   c", "\u2581",
    "A\u2581b\u2581\u2581 c", "<s>", "</s> <unk> <pad>", "<0x41><0x0A>", "naïve Ærøskøbing",
    "e\u0301", "漢字かな한글", "🙂\u200d🙂",
    "\0\x01\x7f\u200b\ufeff\ufffd", "1234567890 3.14", "    indented(code):\n\treturn {'x': [1, 2]}\n",
    "aaaaaaaaaaaaaaaaaaaaaaa", "abababababababa",
)  # fmt: skip
_TRIALS = 400
_PIECES_OF_A_TRIAL = 60


def as_tokenizer_json(tokenizer: SentencePieceTokenizer) -> dict[str, bytes]:
    """tokenizer.json and tokenizer_config.json, content by name, after both have given the same tokens for many texts.

    Documents begin with the beginning token, and what looks like a control token is text, as in training.
    Raises DataError for a model that is none of byte pairs, or whose tokens cannot be had this way.
    """
    proto = sentencepiece_model_pb2.ModelProto.FromString(next(iter(tokenizer.files.values())))
    if proto.trainer_spec.model_type != sentencepiece_model_pb2.TrainerSpec.BPE:
        raise DataError(
            "the tokenizer is a SentencePiece model other than one of byte pairs, which has no tokenizer.json with the "
            "same tokens; such models cannot be exported for transformers"
        )
    tree = _tree(proto)
    special = {"bos_token": tokenizer.bos, "eos_token": tokenizer.eos}
    names = {role: proto.pieces[index].piece for role, index in special.items()}
    tree["post_processor"] = beginning(names["bos_token"], tokenizer.bos)
    content = json.dumps(tree, ensure_ascii=False).encode()
    _check_same(tokenizer, content)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **names,
        "pad_token": names["eos_token"],
        "padding_side": "left",
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
    }
    return {JSON_NAME: content, CONFIG_NAME: json.dumps(config, indent=2, ensure_ascii=False).encode()}


def beginning(token: str, index: int) -> dict[str, Any]:
    """A post-processor that puts a token in front of every text."""
    front = {"SpecialToken": {"id": token, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in ("A", "B"))
    return {
        "type": "TemplateProcessing",
        "single": [front, first],
        "pair": [front, first, second],
        "special_tokens": {token: {"id": token, "ids": [index], "tokens": [token]}},
    }


def _tree(proto: Any) -> dict[str, Any]:
    kinds = {_Piece.CONTROL: True, _Piece.UNKNOWN: True, _Piece.USER_DEFINED: False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": index, "content": _spelled(piece), "special": kinds[piece.type],
                "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            }
            for index, piece in enumerate(proto.pieces) if piece.type in kinds
        ],
        "normalizer": None,
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "unk_token": next((piece.piece for piece in proto.pieces if piece.type == _Piece.UNKNOWN), None),
            "fuse_unk": False,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {_spelled(piece): index for index, piece in enumerate(proto.pieces)},
            "merges": _merges(proto),
        },
    }  # fmt: skip


def _spelled(piece: Any) -> str:
    text: str = piece.piece
    return text.replace(SPACE, " ") if piece.type in (_Piece.NORMAL, _Piece.USER_DEFINED) else text


def _merges(proto: Any) -> list[list[str]]:
    scores = {_spelled(piece): piece.score for piece in proto.pieces if piece.type == _Piece.NORMAL}
    found = []
    for piece, score in scores.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in scores and right in scores:
                found.append((-score, cut, [left, right]))
    return [pair for *_, pair in sorted(found, key=lambda merge: merge[:2])]


def _check_same(tokenizer: SentencePieceTokenizer, content: bytes) -> None:
    """Raises DataError for the first text that the two take apart otherwise, or do not give back."""
    import tokenizers

    other = tokenizers.Tokenizer.from_buffer(content)
    other.encode_special_tokens = True
    for text in _texts(tokenizer):
        wanted, found = tokenizer.encode(text), other.encode(text, add_special_tokens=False).ids
        if found != wanted or other.decode(found) != text:
            shown = text if len(text) <= 60 else text[:60] + "…"
            raise DataError(
                f"as a tokenizer.json the tokenizer takes {shown!r} apart otherwise: "
                f"{_first_difference(found, wanted)}; it cannot be exported for transformers"
            )


def _first_difference(found: list[int], wanted: list[int]) -> str:
    for place, (mine, its) in enumerate(zip(found, wanted, strict=False)):
        if mine != its:
            return f"token {place} is {mine}, not {its}"
    return f"{len(found)} tokens, not {len(wanted)}"


def _texts(tokenizer: Tokenizer) -> Iterator[str]:
    yield from _HOSTILE
    pieces = [spelling.decode(errors="ignore") for spelling in tokenizer.spellings]
    pieces = [piece for piece in pieces if piece]
    yield from pieces
    draw = random.Random(0)
    for trial in range(_TRIALS):
        among = [*_HOSTILE, *pieces] if trial % 2 else pieces
        yield "".join(draw.choices(among, k=_PIECES_OF_A_TRIAL))
