"""What a user may choose about a build."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from glm_data.errors import DataError
from glm_data.settings import Settings
from glm_data.text import Reading
from glm_data.tokenizers.training import LARGEST_VOCABULARY, SMALLEST_VOCABULARY

SHARD_BYTES = 256_000_000


class BuildConfig(Settings):
    """What to build, from what, and where.

    Attributes:
        inputs: files and folders of text.
        output: directory of the data set.
        text_key: of the objects in .jsonl files.
        document_separator: line that separates documents in .txt files; None takes each file as one document.
        on_bad_record: "stop" at a record that cannot be read, or "skip" and count it.
        vocabulary_size: tokens of the tokenizer to train; None suits it to the corpus.
        tokenizer: a SentencePiece model, a tokenizer.json, or a folder that has one, to use instead of training one.
        bos_token, eos_token: of a tokenizer.json that does not say how documents begin and end.
        validation_fraction: of the documents; None takes about 5 MB of text, but at most 5 %.
        shard_bytes: text that goes into one shard.
        workers: processes; None is one for each processor.
        origin: where the text comes from, for the record.
        overwrite: replace what the output holds.
    """

    inputs: list[Path] = Field(min_length=1)
    output: Path
    text_key: str = "text"
    document_separator: str | None = None
    on_bad_record: Literal["stop", "skip"] = "stop"
    vocabulary_size: int | None = Field(default=None, ge=SMALLEST_VOCABULARY, le=LARGEST_VOCABULARY)
    tokenizer: Path | None = None
    bos_token: str | None = None
    eos_token: str | None = None
    validation_fraction: float | None = Field(default=None, ge=0, le=0.5)
    shard_bytes: int = Field(default=SHARD_BYTES, ge=1)
    workers: int | None = Field(default=None, ge=1)
    origin: str | None = None
    overwrite: bool = False

    @property
    def reading(self) -> Reading:
        """How documents are found in the input."""
        return Reading(self.text_key, self.document_separator, self.on_bad_record)

    def check(self) -> None:
        """Raise DataError where a setting cannot be what it is, before anything is read."""
        for name in ("text_key", "origin"):
            try:
                (getattr(self, name) or "").encode()
            except UnicodeEncodeError:
                raise DataError(f"{name} {getattr(self, name)!r} is not UTF-8.") from None
        _ = self.reading.separator
