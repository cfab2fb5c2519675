"""What everything else sees of a tokenizer."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np

from glm_data.errors import DataError


class Tokenizer(ABC):
    """Text to token ids and back.

    Attributes:
        files: what a data set or a checkpoint keeps of it, content by name; `load_tokenizer` reads it back.
        size: number of token ids: all are below it.
        bos, eos: the ids that begin and end a document.
        exact: whether it promises to give back every text as it was.
    """

    files: Mapping[str, bytes]
    size: int
    bos: int
    eos: int
    exact: bool

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the files, in hexadecimal; equal fingerprints mean equal tokens."""
        return fingerprint(self.files)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without beginning and end tokens; what looks like a control token is text.

        Raises:
            DataError: the text holds a lone surrogate, which UTF-8 cannot encode.
        """
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each, in less time where there are many."""
        for text in texts:
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise DataError(f"The text cannot be written as UTF-8: {error}") from error
        return self._encode(texts)

    @abstractmethod
    def _encode(self, texts: Sequence[str]) -> list[list[int]]: ...

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; control tokens give nothing, bytes that are no UTF-8 give U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """UTF-8 bytes of `ids`. A stream of tokens may end within a character: decode it incrementally."""
        spellings = self.spellings
        return b"".join(spellings[index] for index in ids)

    @property
    @abstractmethod
    def spellings(self) -> Sequence[bytes]:
        """`[size]`: the UTF-8 bytes that each token stands for, none for control tokens."""

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """int32 `[size]`: how many bytes each token stands for.

        Summed over the labels of a loss it gives the bytes of text that the loss is spread over.
        """
        return np.array([len(spelling) for spelling in self.spellings], dtype=np.int32)


def fingerprint(files: Mapping[str, bytes]) -> str:
    """SHA-256 of a file; of several that of their names and hashes, in hexadecimal."""
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    return hashlib.sha256(repr(sorted(hashes.items())).encode()).hexdigest()
