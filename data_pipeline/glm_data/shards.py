"""WebDataset tar shards of tokenised documents: writing them whole, reading any part of one with its checksum.

Every document is two members of a POSIX tar file, `<key>.tokens.npy` (its ids, beginning and end token included) and
`<key>.json` (where it came from), so `webdataset.WebDataset` reads the shards as they are. The loader does not walk
the tar: it reads tokens at the offsets that the index recorded.
"""

import hashlib
import io
import json
import os
import tarfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from glm_data.errors import DataError, unreadable
from glm_data.files import sha256_file, sync_directory
from glm_data.index import BLOCK_BYTES, DOCUMENT, DatasetIndex, Shard, Split
from glm_data.open_files import OpenFiles, Table
from glm_data.tar_headers import tar_header

EMPTY_LENGTH = 2  # the beginning and end tokens


def shard_name(split: str, number: int) -> str:
    """File name of a shard."""
    return f"{split}-{number:05d}.tar"


@dataclass(frozen=True)
class PackedDocument:
    """A document as it stands in a shard, ready to be appended.

    Attributes:
        content: its two tar members.
        offset: of the first token within the content, in bytes.
        tokens: length, beginning and end token included.
        text_bytes: UTF-8 bytes of its text.
        checksums: CRC-32 of each block of its tokens.
    """

    content: bytes
    offset: int
    tokens: int
    text_bytes: int
    checksums: list[int]


def pack_document(split: str, number: int, tokens: np.ndarray, dtype: str, metadata: dict[str, Any]) -> PackedDocument:
    """Write a document as tar members, the same on every machine: no times, no users.

    Args:
        split: "train" or "validation".
        number: of the document within its split, from which its key follows.
        tokens: `[n]`, with beginning and end token.
        dtype: to store them in, "uint16" or "uint32".
        metadata: for the `.json` member; `metadata["bytes"]` is the size of the text.
    """
    key = f"{split}-{number:010d}"
    tokens = np.ascontiguousarray(tokens, dtype=np.dtype(dtype).newbyteorder("<"))
    header, raw = _array_header(dtype, len(tokens)), tokens.tobytes()
    members = _tar_member(f"{key}.tokens.npy", header + raw)
    members += _tar_member(f"{key}.json", json.dumps(metadata, ensure_ascii=False).encode())
    offset = tarfile.BLOCKSIZE + len(header)
    return PackedDocument(members, offset, len(tokens), metadata["bytes"], block_checksums(raw))


@lru_cache(maxsize=1 << 14)
def _array_header(dtype: str, length: int) -> bytes:
    """What stands in front of the tokens in a .npy file."""
    header = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype).newbyteorder("<"))
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": (length,)})
    return header.getvalue()


def _tar_member(name: str, content: bytes) -> bytes:
    return tar_header(name, len(content)) + content + bytes(-len(content) % tarfile.BLOCKSIZE)


def block_checksums(raw: bytes) -> list[int]:
    """CRC-32 of each block of a document's tokens."""
    return [zlib.crc32(raw[at : at + BLOCK_BYTES]) for at in range(0, len(raw), BLOCK_BYTES)]


class ShardWriter:
    """Writes one shard under a temporary name; `finish` makes it appear.

    Args:
        path: of the shard.
        temporary: path to write to until it is whole.
        dtype: of the tokens.
    """

    def __init__(self, path: Path, temporary: Path, dtype: str):
        self._path = path
        self._temporary = temporary
        self._itemsize = np.dtype(dtype).itemsize
        self._file = temporary.open("wb", buffering=1 << 20)
        self._sha256 = hashlib.sha256()
        self._position = 0
        self._documents: list[tuple[int, int, int]] = []
        self._checksums: list[int] = []

    def add(self, document: PackedDocument) -> None:
        """Append a document."""
        self._documents.append((self._position + document.offset, document.tokens, document.text_bytes))
        self._checksums += document.checksums
        self._write(document.content)

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._sha256.update(content)
        self._position += len(content)

    def finish(self) -> tuple[Shard, np.ndarray, np.ndarray]:
        """Make the shard appear, and describe it.

        Returns:
            the shard's entry, its documents (`DOCUMENT` `[documents]`, `block` relative to the shard) and the
            CRC-32 of its blocks (uint32 `[blocks]`).
        """
        # A tar file ends with two empty blocks and fills its last record.
        end = 2 * tarfile.BLOCKSIZE
        self._write(bytes(end + -(self._position + end) % tarfile.RECORDSIZE))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(self._path)
        sync_directory(self._path.parent)
        documents = np.zeros(len(self._documents), dtype=DOCUMENT)
        for column, name in enumerate(("offset", "tokens", "text_bytes")):
            documents[name] = [document[column] for document in self._documents]
        documents["block"] = _first_blocks(documents["tokens"], self._itemsize)
        shard = Shard(
            name=self._path.name,
            documents=len(documents),
            tokens=int(documents["tokens"].sum(dtype=np.int64)),
            text_bytes=int(documents["text_bytes"].sum(dtype=np.int64)),
            bytes=self._position,
            sha256=self._sha256.hexdigest(),
        )
        return shard, documents, np.array(self._checksums, dtype="<u4")

    def abandon(self) -> None:
        """Close and remove the unfinished file."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)


def _first_blocks(lengths: np.ndarray, itemsize: int) -> np.ndarray:
    """int64 `[documents]`: number of blocks in front of each document."""
    blocks = -(-lengths.astype(np.int64) * itemsize // BLOCK_BYTES)
    return np.cumsum(blocks) - blocks


class SplitReader:
    """Random access to the tokens of one split of a data set. Safe to pickle; files open when they are needed.

    Args:
        directory: of the data set.
        index: its index.
        split: "train" or "validation".
        files: to read by; None opens files of its own.
        verify: check the tables against their SHA-256, and the sizes of the shards. A worker process, whose parent
            did so, may leave it out.

    Raises:
        DataError: a file is missing, has another size than recorded, or a table is damaged.
    """

    def __init__(
        self, directory: Path, index: DatasetIndex, split: str, *, files: OpenFiles | None = None, verify: bool = True
    ):
        entry = index.splits[split]
        self._directory = directory
        self._split = split
        self._entry = entry
        self._vocabulary_size = index.vocabulary_size
        self._dtype = np.dtype(index.dtype).newbyteorder("<")
        if verify:
            _check_files(directory, entry)
        self._files = files or OpenFiles()
        self._documents = Table(self._files, directory / entry.document_table.name, DOCUMENT)
        self._checksums = Table(self._files, directory / entry.checksum_table.name, np.dtype("<u4"))
        if self._documents.length != entry.documents:
            raise DataError(
                f"{directory / entry.document_table.name}: not the table that the index describes. Rebuild the data "
                "set."
            )
        self._first_documents = np.concatenate([[0], np.cumsum([shard.documents for shard in entry.shards])])
        self._block_tokens = index.block_bytes // self._dtype.itemsize

    def __len__(self) -> int:
        return self._entry.documents

    @property
    def lengths(self) -> np.ndarray:
        """uint32 `[documents]`: tokens of each document, beginning and end token included."""
        return self._documents.column("tokens")

    def length(self, document: int) -> int:
        """Tokens of one document."""
        return int(self._documents.read(document)["tokens"][0])

    def name(self, document: int) -> str:
        """The shard and sample of a document, for messages."""
        shard = self._entry.shards[self._shard_of(document)].name
        return f"{self._directory / shard}, sample {self._split}-{document:010d}"

    def read(self, document: int, start: int, stop: int) -> np.ndarray:
        """Tokens `start` to `stop` (exclusive) of a document, every block of them checked.

        Raises:
            DataError: the shard cannot be read, a checksum does not match, an id is outside the vocabulary, or the
                document holds nothing but its beginning and end.
        """
        record = self._documents.read(document)[0]
        length = int(record["tokens"])
        if length <= EMPTY_LENGTH:
            raise DataError(
                f"{self.name(document)}: the document is empty. Rebuild the data set, or set data.on_bad_sample=skip."
            )
        first = start // self._block_tokens
        last = -(-min(stop, length) // self._block_tokens)
        begin = first * self._block_tokens
        end = min(last * self._block_tokens, length)
        raw = self._read_bytes(document, int(record["offset"]) + begin * self._dtype.itemsize, end - begin)
        step = self._block_tokens * self._dtype.itemsize
        view = memoryview(raw)
        checksums = self._checksums.read(int(record["block"]) + first, last - first)
        for number in range(last - first):
            if zlib.crc32(view[number * step : (number + 1) * step]) != int(checksums[number]):
                raise DataError(
                    f"{self.name(document)}: checksum mismatch in tokens {begin + number * self._block_tokens} and on: "
                    "the shard is damaged. Restore or rebuild it, or set data.on_bad_sample=skip."
                )
        tokens = np.frombuffer(raw, dtype=self._dtype)[start - begin : stop - begin]
        if tokens.size and int(tokens.max()) >= self._vocabulary_size:
            raise DataError(
                f"{self.name(document)}: token id {int(tokens.max())} is outside the vocabulary of "
                f"{self._vocabulary_size} tokens. Rebuild the data set, or set data.on_bad_sample=skip."
            )
        return tokens

    def _shard_of(self, document: int) -> int:
        return int(np.searchsorted(self._first_documents, document, side="right")) - 1

    def _read_bytes(self, document: int, offset: int, tokens: int) -> bytes:
        wanted = tokens * self._dtype.itemsize
        try:
            shard = self._entry.shards[self._shard_of(document)]
            raw = self._files.read(self._directory / shard.name, wanted, offset)
        except OSError as error:
            remedy = "Restore or rebuild the shard, or set data.on_bad_sample=skip."
            raise unreadable(self.name(document), error, remedy) from error
        if len(raw) != wanted:
            raise DataError(
                f"{self.name(document)}: the shard ends within the sample: it is truncated. Restore or rebuild "
                "it, or set data.on_bad_sample=skip."
            )
        return raw

    def close(self) -> None:
        """Close the files; they open again when read."""
        self._files.close()


def _check_files(directory: Path, entry: Split) -> None:
    for table in (entry.document_table, entry.checksum_table):
        if sha256_file(directory / table.name) != table.sha256:
            raise DataError(f"{directory / table.name}: checksum mismatch: the file is damaged. Rebuild the data set.")
    for shard in entry.shards:
        path = directory / shard.name
        try:
            size = path.stat().st_size
        except OSError as error:
            raise DataError(
                f"{path}: the shard cannot be read: {error.strerror or error}. Restore or rebuild it."
            ) from error
        if size != shard.bytes:
            raise DataError(f"{path}: the shard has {size} bytes, the index says {shard.bytes}. Restore or rebuild it.")
