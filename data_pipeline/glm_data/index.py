"""The index of a built data set: what it holds, where, and how to know that it is intact.

A data set is a directory:

    tokenizer.model                   the SentencePiece model, or tokenizer.json and tokenizer_config.json
    train-00000.tar …                 WebDataset shards: `<key>.tokens.npy` and `<key>.json` for every document
    train.documents.npy               one `DOCUMENT` record a document: length, place and size
    train.checksums.npy               CRC-32 of every block of every document
    validation-…                      the same for the validation split
    index.json                        this index, written last: without it there is no data set

`index.json` carries a checksum of itself and the SHA-256 of every other file. The two tables are checked when a data
set is opened, each block of tokens whenever it is read.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from glm_data.errors import DataError, unreadable
from glm_data.input_warnings import Remark
from glm_data.round_trip import RoundTrip
from glm_data.tokenizers.names import MODEL_NAME

FORMAT = "glm-data/1"
INDEX_NAME = "index.json"
BLOCK_BYTES = 16384  # bytes of tokens under one checksum
SPLITS = ("train", "validation")

# offset: of the first token within its shard; block: first entry in the table of checksums;
# tokens: length with beginning and end token; text_bytes: UTF-8 bytes of the text.
DOCUMENT = np.dtype([("offset", "<u8"), ("block", "<u8"), ("tokens", "<u4"), ("text_bytes", "<u4")])


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Shard(_Record):
    """One tar file: its size in bytes, its checksum, and what it holds."""

    name: str
    documents: int
    tokens: int
    text_bytes: int
    bytes: int
    sha256: str


class Table(_Record):
    """One array beside the index."""

    name: str
    sha256: str


class Split(_Record):
    """The shards of a split in order, and the tables that describe their documents."""

    documents: int
    tokens: int
    text_bytes: int
    shards: list[Shard]
    document_table: Table
    checksum_table: Table


class Input(_Record):
    """The files that the data set was made from; the SHA-256 is that of their names and sizes."""

    files: int
    bytes: int
    sha256: str


class Counts(_Record):
    """What became of the records of the input."""

    records: int
    bad: int
    empty: int
    duplicates: int


class DatasetIndex(_Record):
    """Everything that `index.json` says.

    `remarks`, on files that were passed over or look odd, describe the input and not the data set: they are no part
    of its fingerprint, and an index without any is that of a version which knew none. Nor did those know of other
    `tokenizer_files` than SentencePiece's, so an index says it of others alone. `round_trip`: None of a tokenizer that
    promises to give back every text.
    """

    format: Literal["glm-data/1"]
    origin: str | None
    dtype: Literal["uint16", "uint32"]
    block_bytes: int
    vocabulary_size: int
    tokenizer_sha256: str
    tokenizer_files: list[str] = [MODEL_NAME]
    round_trip: RoundTrip | None = None
    settings: dict[str, Any]
    input: Input
    documents_sha256: str
    counts: Counts
    splits: dict[str, Split]
    remarks: dict[str, Remark] = {}

    def dumps(self) -> bytes:
        """The file's content, with a checksum of the rest in its last line."""
        content = self._content(with_remarks=bool(self.remarks))
        return (json.dumps(content | {"checksum": _checksum(content)}, indent=1, ensure_ascii=False) + "\n").encode()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the index and so of all that it vouches for."""
        return _checksum(self._content(with_remarks=False))

    def _content(self, *, with_remarks: bool) -> dict[str, Any]:
        unsaid = set() if with_remarks else {"remarks"}
        if self.tokenizer_files == [MODEL_NAME]:
            unsaid.add("tokenizer_files")
        if self.round_trip is None:
            unsaid.add("round_trip")
        return self.model_dump(mode="json", exclude=unsaid)

    def listed_files(self) -> list[str]:
        """Names of all the files of the data set but the index itself."""
        names = [*self.tokenizer_files]
        for split in self.splits.values():
            names += [shard.name for shard in split.shards]
            names += [split.document_table.name, split.checksum_table.name]
        return names


def load_index(directory: Path) -> DatasetIndex:
    """Read and check the index of a data set.

    Raises:
        DataError: there is none (the build was not finished), or it is damaged or of another format.
    """
    path = directory / INDEX_NAME
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(_no_index(directory)) from error
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        raise DataError(f"{path}: damaged: {error}. Build the data set again with --overwrite.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path}: not an index of format {FORMAT!r}. Build the data set again with --overwrite.")
    checksum = content.pop("checksum", None)
    if checksum != _checksum(content):
        raise DataError(
            f"{path}: the checksum does not match: the file was damaged or edited. Build the data set again."
        )
    try:
        return DatasetIndex.model_validate(content)
    except ValidationError as error:
        raise DataError(f"{path}: damaged: {error}") from error


def check_complete(directory: Path, index: DatasetIndex) -> None:
    """Check that the files of a data set are there.

    Raises:
        DataError: one is missing.
    """
    missing = [name for name in index.listed_files() if not (directory / name).exists()]
    if missing:
        raise DataError(
            f"{directory / missing[0]}: missing from the data set ({len(missing)} of {len(index.listed_files())} files "
            "are). Restore it, or build again with --overwrite."
        )


def _checksum(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _no_index(directory: Path) -> str:
    if not directory.exists():
        return (
            f"{directory}: there is no such data set. Build it with `glm-scale data build --input … --output "
            f"{directory}`, or the demo corpus with `glm-scale data demo`."
        )
    if (directory / ".build").exists():
        return f"{directory}: the build of this data set was not finished. Run the same build command again."
    return f"{directory}: not a data set: it has no {INDEX_NAME}. Give a directory made by `glm-scale data build`."
