"""A SentencePiece tokenizer that gives back exactly the text it was given.

SentencePiece alone does not: it may normalise, it writes a space in front, and it spells a space as U+2581, so that a
U+2581 of the text itself comes back as a space. Here the model's own normalisation is switched off when it is loaded,
U+2581 goes in as its three UTF-8 bytes (byte fallback), and decoding joins the bytes that the tokens stand for. Every
string that UTF-8 can encode survives the round trip; strings with lone surrogates are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property

import sentencepiece

from glm_data.errors import DataError
from glm_data.tokenizers.contract import Tokenizer
from glm_data.tokenizers.names import MODEL_NAME

SPACE = "\u2581"  # how SentencePiece spells a space inside its pieces

# A serialised `ModelProto { normalizer_spec { precompiled_charsmap: "" add_dummy_prefix: false
# remove_extra_whitespaces: false } }`. Protocol buffers merge messages that are written one after the other, so
# appending these bytes switches off whatever normalisation a model was trained with.
_IDENTITY_NORMALIZER = b"\x1a\x06\x12\x00\x18\x00\x20\x00"

# SentencePiece slows down on long inputs, and no piece reaches across the end of a line or into the middle of a gap.
_LINES = re.compile(r"[^\n]+\n*|\n+")
_LONGEST_SEGMENT = 8192  # characters


class SentencePieceTokenizer(Tokenizer):
    """A model of SentencePiece.

    Args:
        model: serialised, with byte fallback, a beginning and an end token.
        name: where it came from, for messages.

    Raises:
        DataError: not a SentencePiece model, or one that cannot spell every text.
    """

    exact = True

    def __init__(self, model: bytes, name: str = "tokenizer"):
        self.files = {MODEL_NAME: model}
        self._name = name
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model + _IDENTITY_NORMALIZER)
        except (RuntimeError, OSError, TypeError) as error:
            raise DataError(f"{name}: not a SentencePiece model: {error}") from error
        self.size = self._processor.get_piece_size()
        self.bos, self.eos = self._processor.bos_id(), self._processor.eos_id()
        if self.bos < 0 or self.eos < 0:
            raise DataError(
                f"{name}: the model has no beginning or end token (bos_id {self.bos}, eos_id {self.eos}). "
                "Train it with both, or let `data build` train one."
            )
        byte_tokens = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)]
        if not all(self._processor.is_byte(token) for token in byte_tokens):
            raise DataError(
                f"{name}: the model has no byte fallback, so it cannot spell every text. Train it with "
                "`--byte_fallback=true`, or let `data build` train one."
            )
        self._space_tokens = [byte_tokens[byte] for byte in SPACE.encode()]

    def __reduce__(self) -> tuple[type[SentencePieceTokenizer], tuple[bytes, str]]:
        return SentencePieceTokenizer, (self.files[MODEL_NAME], self._name)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._ids(text) for text in texts]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = []
        for number, part in enumerate(text.split(SPACE)):
            if number:
                ids.extend(self._space_tokens)
            for segment in _segments(part):
                ids.extend(self._processor.encode(segment))
        return ids

    @cached_property
    def spellings(self) -> list[bytes]:
        processor = self._processor

        def spell(token: int) -> bytes:
            if processor.is_byte(token):
                return bytes([int(processor.id_to_piece(token)[3:5], 16)])
            if processor.is_control(token) or processor.is_unknown(token) or processor.is_unused(token):
                return b""
            return processor.id_to_piece(token).replace(SPACE, " ").encode()

        return [spell(token) for token in range(self.size)]


def _segments(text: str) -> Iterator[str]:
    """Cut a text where no piece of the tokenizers trained here could reach across."""
    for match in _LINES.finditer(text):
        line = match.group()
        while len(line) > _LONGEST_SEGMENT:
            end = _LONGEST_SEGMENT
            # Before the first space of a gap; a text without gaps is cut anywhere.
            gap = line.rfind(" ", 1, end)
            while gap > 0 and line[gap - 1] == " ":
                gap -= 1
            if gap > 0:
                end = gap
            yield line[:end]
            line = line[end:]
        yield line
