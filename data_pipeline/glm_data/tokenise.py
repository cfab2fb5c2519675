"""The last pass of a build: documents become tokens in worker processes, and shards in this one."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from glm_data.errors import DataError
from glm_data.files import sha256_file, write_array
from glm_data.index import DOCUMENT, Split, Table
from glm_data.journal import Journal, ShardRecord, table_names
from glm_data.parallel import ordered_map
from glm_data.scan import SPLIT_CODES, Scan, assign_shards, changed, digest, selected_blocks
from glm_data.shards import ShardWriter, shard_name
from glm_data.text import Block, InputFile, Reading, parse
from glm_data.tokenizer import Tokenizer

_LONGEST_DOCUMENT = (1 << 32) - 1  # tokens


class SplitOutput:
    """The shards of one split: which are there already, and the writing of those that are not.

    Args:
        directory: of the data set.
        journal: of its build.
        split: "train" or "validation".
        scan: of the input.
        splits: where each document belongs.
        shard_bytes: text for one shard.
        tokenizer: that the documents are encoded with.
        key: of everything that the shards are made from.
    """

    def __init__(
        self,
        directory: Path,
        journal: Journal,
        split: str,
        scan: Scan,
        splits: np.ndarray,
        shard_bytes: int,
        tokenizer: Tokenizer,
        key: str,
    ):
        self.split = split
        self.dtype: Literal["uint16", "uint32"] = "uint16" if tokenizer.size <= 1 << 16 else "uint32"
        self._directory = directory
        self._journal = journal
        self._key = key
        self._documents = np.flatnonzero(splits == SPLIT_CODES[split])
        self._borders = assign_shards(scan.sizes[self._documents], shard_bytes)
        self._records = [journal.shard(shard_name(split, number), key) for number in range(len(self._borders) - 1)]
        self._number = -1  # of the shard that is being written
        self._writer: ShardWriter | None = None

    def missing_documents(self) -> np.ndarray:
        """Documents of the shards that are still to be written, ascending."""
        return self._documents[np.repeat([record is None for record in self._records], np.diff(self._borders))]

    def add(self, document: int, tokens: np.ndarray, metadata: dict[str, object]) -> None:
        """Write the next missing document."""
        if self._writer is None:
            self._number = self._records.index(None)
            name = shard_name(self.split, self._number)
            first = int(self._borders[self._number])
            self._writer = ShardWriter(
                self._directory, self.split, self._number, first, self.dtype, self._journal.temporary(name)
            )
        self._writer.add(tokens, metadata)
        if document == self._documents[self._borders[self._number + 1] - 1]:
            record = ShardRecord(*self._writer.finish())
            self._journal.record_shard(record, self._key)
            self._records[self._number] = record
            self._writer = None

    def abandon(self) -> None:
        """Drop the shard that is being written, if there is one."""
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None

    def write_tables(self) -> Split:
        """Join what the journal holds about the shards into the tables of the split."""
        records = [record for record in self._records if record is not None]
        assert len(records) == len(self._records)
        documents = np.concatenate([np.zeros(0, DOCUMENT), *(record.documents for record in records)])
        checksums = np.concatenate([np.zeros(0, "<u4"), *(record.checksums for record in records)])
        blocks_before = np.cumsum([0] + [len(record.checksums) for record in records[:-1]])
        documents["block"] += np.repeat(blocks_before, [len(record.documents) for record in records]).astype("<u8")
        tables = []
        for name, table in zip(table_names(self.split), (documents, checksums), strict=True):
            write_array(self._directory / name, table)
            tables.append(Table(name=name, sha256=sha256_file(self._directory / name)))
        return Split(
            documents=len(documents),
            tokens=sum(record.shard.tokens for record in records),
            text_bytes=sum(record.shard.text_bytes for record in records),
            shards=[record.shard for record in records],
            document_table=tables[0],
            checksum_table=tables[1],
        )


@dataclass(frozen=True)
class _Work:
    block: Block
    first_document: int
    wanted: np.ndarray  # bool [documents of the block]


@dataclass(frozen=True)
class _Tokenised:
    """The wanted documents of a block: tokens joined, and the length, size and line of each."""

    file: str
    first_document: int
    digests: bytes  # of all documents
    wanted: np.ndarray
    tokens: np.ndarray
    lengths: list[int]
    sizes: list[int]
    lines: list[int]


@dataclass(frozen=True)
class _TokeniseBlock:
    """The work of one worker process on one block."""

    reading: Reading
    tokenizer: Tokenizer

    def __call__(self, work: _Work) -> _Tokenised:
        documents = parse(work.block, self.reading)
        digests, sizes = digest(documents)
        if len(sizes) != len(work.wanted):
            raise changed(work.block.file)
        chosen = np.flatnonzero(work.wanted)
        bos, eos = self.tokenizer.bos, self.tokenizer.eos
        encoded = [
            np.array([bos, *self.tokenizer.encode(documents.texts[number]), eos], np.uint32) for number in chosen
        ]
        return _Tokenised(
            work.block.file,
            work.first_document,
            digests,
            work.wanted,
            np.concatenate(encoded),
            [len(tokens) for tokens in encoded],
            [int(sizes[number]) for number in chosen],
            [documents.lines[number] for number in chosen],
        )


def tokenise(
    files: list[InputFile],
    reading: Reading,
    scan: Scan,
    wanted: np.ndarray,
    splits: np.ndarray,
    outputs: dict[int, SplitOutput],
    tokenizer: Tokenizer,
    workers: int,
    advance: Callable[[int, int], None],
) -> None:
    """Tokenise the wanted documents and write the shards that miss them.

    Args:
        files, reading: the input, as it was scanned.
        scan: what the first pass found.
        wanted: bool `[documents]`.
        splits: uint8 `[documents]`: where each belongs.
        outputs: what to write to, by split; together they miss exactly the wanted documents.
        tokenizer: to encode with.
        workers: processes.
        advance: called with (documents, bytes of text) as they are written.

    Raises:
        DataError: the input has changed since it was scanned.
    """

    def work() -> Iterator[_Work]:
        for block, span in selected_blocks(files, reading, scan, wanted):
            yield _Work(block, span.start, wanted[span])

    with ExitStack() as stack:
        for output in outputs.values():
            stack.callback(output.abandon)
        for block in ordered_map(_TokeniseBlock(reading, tokenizer), work(), workers):
            span = slice(block.first_document, block.first_document + len(block.wanted))
            if block.digests != scan.digests[span].tobytes():
                raise changed(block.file)
            _write(block, splits[span], outputs)
            advance(len(block.sizes), sum(block.sizes))


def _write(block: _Tokenised, splits: np.ndarray, outputs: dict[int, SplitOutput]) -> None:
    ends = np.cumsum(block.lengths)
    for position, offset in enumerate(np.flatnonzero(block.wanted)):
        document = block.first_document + int(offset)
        end = int(ends[position])
        tokens = block.tokens[end - block.lengths[position] : end]
        if len(tokens) > _LONGEST_DOCUMENT:
            raise DataError(
                f"{block.file}:{block.lines[position]}: {len(tokens)} tokens; a document may have 2^32 − 1."
            )
        metadata = {"file": block.file, "line": block.lines[position], "bytes": block.sizes[position]}
        outputs[int(splits[offset])].add(document, tokens, metadata)
