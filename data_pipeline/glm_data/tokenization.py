"""The last pass of a build: documents become tokens in worker processes, and shards in this one."""

from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from glm_data.build_journal import BuildJournal, ShardRecord
from glm_data.errors import DataError
from glm_data.index import DOCUMENT, Split
from glm_data.inputs import InputFile
from glm_data.parallel import ordered_map
from glm_data.scan import SPLIT_CODES, SPLIT_NAMES, Scan, assign_shards, changed, digest, selected_blocks
from glm_data.shards import PackedDocument, ShardWriter, pack_document, shard_name
from glm_data.split_tables import write_split
from glm_data.text import Block, Reading, parse
from glm_data.tokenizers import Tokenizer

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
        journal: BuildJournal,
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
        self._shard = -1  # the one that is being written
        self._writer: ShardWriter | None = None

    def missing_documents(self) -> np.ndarray:
        """Documents of the shards that are still to be written, ascending."""
        missing = np.array([record is None for record in self._records], dtype=bool)
        return self._documents[np.repeat(missing, np.diff(self._borders))]

    def add(self, number: int, document: PackedDocument) -> None:
        """Write the next missing document, number `number` of the split."""
        if self._writer is None:
            self._shard = self._records.index(None)
            name = shard_name(self.split, self._shard)
            self._writer = ShardWriter(self._directory / name, self._journal.temporary(name), self.dtype)
        self._writer.add(document)
        if number == self._borders[self._shard + 1] - 1:
            record = ShardRecord(*self._writer.finish())
            self._journal.record_shard(record, self._key)
            self._records[self._shard] = record
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
        blocks_before = np.cumsum([0, *(len(record.checksums) for record in records)])[:-1]
        documents["block"] += np.repeat(blocks_before, [len(record.documents) for record in records]).astype("<u8")
        return write_split(self._directory, self.split, [record.shard for record in records], documents, checksums)


@dataclass(frozen=True)
class _Work:
    """A block, and what is wanted of its documents: `[documents]` each, numbers within the splits."""

    block: Block
    first_document: int
    wanted: np.ndarray
    splits: np.ndarray
    numbers: np.ndarray


@dataclass(frozen=True)
class _Tokenised:
    """The wanted documents of a block, with split and number, and the digests of all of its documents."""

    place: str
    documents: slice
    digests: bytes
    packed: list[tuple[int, int, PackedDocument]]


@dataclass(frozen=True)
class _TokeniseBlock:
    """The work of one worker process on one block: everything that grows with the text."""

    reading: Reading
    tokenizer: Tokenizer
    dtype: str

    def __call__(self, work: _Work) -> _Tokenised:
        documents = parse(work.block, self.reading)
        digests, sizes = digest(documents)
        if len(sizes) != len(work.wanted):
            raise changed(work.block.place)
        packed = []
        wanted = np.flatnonzero(work.wanted).tolist()
        for at, ids in zip(wanted, self.tokenizer.encode_all([documents.texts[at] for at in wanted]), strict=True):
            # numpy takes a list thrice as slowly as an array.
            tokens = np.frombuffer(array("I", [self.tokenizer.bos, *ids, self.tokenizer.eos]), np.uint32)
            if len(tokens) > _LONGEST_DOCUMENT:
                raise DataError(f"{work.block.place}:{documents.lines[at]}: the document has 2^32 tokens or more.")
            metadata = {"file": work.block.file, "line": documents.lines[at], "bytes": int(sizes[at])}
            code, number = int(work.splits[at]), int(work.numbers[at])
            document = pack_document(SPLIT_NAMES[code], number, tokens, self.dtype, metadata)
            packed.append((code, number, document))
        span = slice(work.first_document, work.first_document + len(sizes))
        return _Tokenised(work.block.place, span, digests, packed)


def tokenise(
    files: list[InputFile],
    reading: Reading,
    scan: Scan,
    splits: np.ndarray,
    outputs: dict[int, SplitOutput],
    tokenizer: Tokenizer,
    workers: int,
    advance: Callable[[int, int], None],
) -> None:
    """Write the shards that are still missing.

    Args:
        files, reading: the input, as it was scanned.
        scan: what the first pass found.
        splits: uint8 `[documents]`: where each belongs.
        outputs: what to write to, by split.
        tokenizer: to encode with.
        workers: processes.
        advance: called with (documents, bytes of text) as they are written.

    Raises:
        DataError: the input has changed since it was scanned.
    """
    wanted = np.zeros(len(splits), dtype=bool)
    numbers = np.zeros(len(splits), dtype=np.int64)
    for code, output in outputs.items():
        wanted[output.missing_documents()] = True
        numbers[splits == code] = np.arange(np.count_nonzero(splits == code))

    def work() -> Iterator[_Work]:
        for block, span in selected_blocks(files, reading, scan, wanted):
            yield _Work(block, span.start, wanted[span], splits[span], numbers[span])

    dtype = next(iter(outputs.values())).dtype
    with ExitStack() as stack:
        for output in outputs.values():
            stack.callback(output.abandon)
        for block in ordered_map(_TokeniseBlock(reading, tokenizer, dtype), work(), workers):
            if block.digests != scan.digests[block.documents].tobytes():
                raise changed(block.place)
            for code, number, document in block.packed:
                outputs[code].add(number, document)
            advance(len(block.packed), sum(document.text_bytes for _, _, document in block.packed))
