"""A tokenizer of Hugging Face's `tokenizers` (tokenizer.json).

What looks like a control token in a text is text here: documents cannot end themselves.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from glm_data.errors import DataError
from glm_data.tokenizers import spelling
from glm_data.tokenizers.contract import Tokenizer
from glm_data.tokenizers.names import CONFIG_NAME, JSON_NAME
from glm_data.tokenizers.special_tokens import SpecialTokens

LARGEST_ID = 1 << 24
"""A vocabulary has room for a table of it: the largest ones of today have 2^18 tokens."""


class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer.json.

    Args:
        content: of the file.
        special: the tokens that begin and end a document.
        name: where it came from, for messages.

    Raises:
        DataError: not a tokenizer, or one with ids beyond `LARGEST_ID`.
    """

    def __init__(self, content: bytes, special: SpecialTokens, name: str = JSON_NAME):
        # Documents are spread over processes already, and threads of a process that was forked would wait forever.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        import tokenizers

        self._special, self._name = special, name
        config = {**special.config, "bos_token": special.bos, "eos_token": special.eos}
        config.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
        told = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        self.files = {JSON_NAME: content, CONFIG_NAME: told.encode()}
        try:
            self._backend = tokenizers.Tokenizer.from_buffer(content)
        except Exception as error:
            raise DataError(f"{name}: not a tokenizer of Hugging Face's `tokenizers`: {error}") from error
        self._backend.no_padding()
        self._backend.no_truncation()
        self._backend.encode_special_tokens = True
        tree = json.loads(content)
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        self.size = 1 + max(vocabulary.values())
        if self.size > LARGEST_ID:
            raise DataError(f"{name}: a token has the id {self.size - 1:,}; the largest can be {LARGEST_ID - 1:,}.")
        self.bos, self.eos = vocabulary[special.bos], vocabulary[special.eos]
        self.exact = spelling.gives_back_every_text(tree)
        added = tree.get("added_tokens") or []
        self._control = {int(token["id"]) for token in added if token.get("special")} | {self.bos, self.eos}
        self._unknown = _id_of_unknown(tree["model"], vocabulary)
        # The vocabulary and its merges are the library's to hold.
        self._tree = {name: value for name, value in tree.items() if name != "model"}

    def __reduce__(self) -> tuple[type[HuggingFaceTokenizer], tuple[bytes, SpecialTokens, str]]:
        return HuggingFaceTokenizer, (self.files[JSON_NAME], self._special, self._name)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        found = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [self._without_control(encoding.ids) for encoding in found]

    def _without_control(self, ids: list[int]) -> list[int]:
        """Unigram models find the names of control tokens among their pieces, and models of words among the words."""
        if self._control.isdisjoint(ids):
            return ids
        spelled = (self._unknown if index in self._control else index for index in ids)
        return [index for index in spelled if index is not None]

    def decode(self, ids: Iterable[int]) -> str:
        if self.exact:
            return super().decode(ids)
        return self._backend.decode(list(ids), skip_special_tokens=True)

    @cached_property
    def spellings(self) -> list[bytes]:
        tokens = [self._backend.id_to_token(index) for index in range(self.size)]
        return spelling.spellings(self._tree, tokens, self._control, self._backend.decode_batch)


def _id_of_unknown(model: Mapping[str, Any], vocabulary: Mapping[str, int]) -> int | None:
    number = model.get("unk_id")
    return int(number) if number is not None else vocabulary.get(model.get("unk_token") or "")
