"""The first pass of a build: what documents there are, which of them are kept, and in which split and shard.

The pass parses everything and so finds every error in the input before any tokenising. Its outcome is a few bytes a
document, from which duplicates, the validation split and the borders of the shards follow: a build is planned in full
before its second pass begins, and depends on nothing but the input and the settings.
"""

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glm_data.errors import DataError
from glm_data.files import atomic_writer
from glm_data.input_warnings import Remark, Remarks
from glm_data.inputs import TEXT, InputFile
from glm_data.parallel import ordered_map
from glm_data.text import Block, Documents, Reading, parse, read_blocks

DIGEST = np.dtype([("high", "<u8"), ("low", "<u8")])
DROPPED, TRAIN, VALIDATION = 0, 1, 2
SPLIT_CODES = {"train": TRAIN, "validation": VALIDATION}
SPLIT_NAMES = {code: name for name, code in SPLIT_CODES.items()}
MOST_PROBLEMS_KEPT = 5

_VALIDATION_BYTES = 5_000_000
_SMALLEST_FRACTION, _LARGEST_FRACTION = 0.0005, 0.05


@dataclass(frozen=True)
class Scan:
    """What the first pass found.

    Attributes:
        digests: `DIGEST` `[documents]`: 128-bit BLAKE2b of each document's text, in the order of the input.
        sizes: uint32 `[documents]`: UTF-8 bytes of each text.
        blocks: int64 `[blocks]`: number of documents in each block of the input.
        blocks_of_files: int64 `[files]`: number of blocks of each file.
        records, bad, empty: counts of what was read and what was left out.
        remarks: on the content of files.
    """

    digests: np.ndarray
    sizes: np.ndarray
    blocks: np.ndarray
    blocks_of_files: np.ndarray
    records: int
    bad: int
    empty: int
    remarks: dict[str, Remark]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all documents in their order."""
        return hashlib.sha256(self.digests.tobytes()).hexdigest()

    def save(self, path: Path, key: str) -> None:
        """Keep the scan for a build that may be interrupted."""
        with atomic_writer(path) as file:
            np.savez(
                file,
                key=np.array(key),
                digests=self.digests,
                sizes=self.sizes,
                blocks=self.blocks,
                blocks_of_files=self.blocks_of_files,
                counts=np.array([self.records, self.bad, self.empty]),
                remarks=np.array(json.dumps({kind: remark.model_dump() for kind, remark in self.remarks.items()})),
            )

    @classmethod
    def load(cls, path: Path, key: str) -> "Scan | None":
        """The scan that was kept under the same key, if there is one."""
        try:
            with np.load(path, allow_pickle=False) as saved:
                if str(saved["key"]) != key:
                    return None
                records, bad, empty = (int(count) for count in saved["counts"])
                names = ("digests", "sizes", "blocks", "blocks_of_files")
                arrays = {name: saved[name] for name in names}
                remarks = {kind: Remark(**remark) for kind, remark in json.loads(str(saved["remarks"])).items()}
                return cls(**arrays, records=records, bad=bad, empty=empty, remarks=remarks)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None


@dataclass(frozen=True)
class _ScannedBlock:
    digests: bytes
    sizes: np.ndarray
    empty: int
    bad: list[str]
    separators: int
    nul: int
    data_bytes: int

    @property
    def records(self) -> int:
        return len(self.sizes) + self.empty + len(self.bad)


@dataclass(frozen=True)
class _ScanBlock:
    """The work of one worker process on one block."""

    reading: Reading

    def __call__(self, block: Block) -> _ScannedBlock:
        documents = parse(block, self.reading)
        digests, sizes = digest(documents)
        return _ScannedBlock(
            digests, sizes, documents.empty, documents.bad, documents.separators, documents.nul, len(block.data)
        )


def digest(documents: Documents) -> tuple[bytes, np.ndarray]:
    """Digests (16 bytes each, joined) and sizes in bytes (uint32) of the documents of a block."""
    texts = [text.encode() for text in documents.texts]
    digests = b"".join(hashlib.blake2b(text, digest_size=DIGEST.itemsize).digest() for text in texts)
    return digests, np.array([len(text) for text in texts], dtype=np.uint32)


def scan_files(
    files: list[InputFile],
    reading: Reading,
    workers: int,
    advance: Callable[[int, int], None],
    report: Callable[[str], None],
) -> Scan:
    """Read everything once.

    Args:
        files: in order.
        reading: how documents are found.
        workers: processes.
        advance: called with (documents, uncompressed bytes) as they are read.
        report: called with the first few messages about records that are skipped.

    Raises:
        DataError: a file or record cannot be read (or there is no document at all).
    """
    blocks_of_files = np.zeros(len(files), dtype=np.int64)

    def blocks() -> Iterator[Block]:
        for number, file in enumerate(files):
            for block in read_blocks(file, reading):
                blocks_of_files[number] += 1
                yield block

    digests: list[bytes] = []
    sizes: list[np.ndarray] = []
    counts: list[tuple[int, int, int]] = []  # of each block: records, separators, documents with NUL
    bad = empty = 0
    for scanned in ordered_map(_ScanBlock(reading), blocks(), workers):
        for message in scanned.bad[: max(MOST_PROBLEMS_KEPT - bad, 0)]:
            report(message)
        digests.append(scanned.digests)
        sizes.append(scanned.sizes)
        counts.append((scanned.records, scanned.separators, scanned.nul))
        bad += len(scanned.bad)
        empty += scanned.empty
        advance(len(scanned.sizes), scanned.data_bytes)
    if not any(digests):
        raise DataError(
            f"The input holds no documents: {len(files)} files, {empty} empty and {bad} unreadable records."
        )
    per_block = np.array([len(block) for block in sizes], dtype=np.int64)
    documents = int(per_block.sum())
    return Scan(
        np.frombuffer(b"".join(digests), dtype=DIGEST),
        np.concatenate(sizes),
        per_block,
        blocks_of_files,
        documents + bad + empty,
        bad,
        empty,
        _remarks(files, reading, blocks_of_files, counts),
    )


def _remarks(
    files: list[InputFile], reading: Reading, blocks_of_files: np.ndarray, counts: list[tuple[int, int, int]]
) -> dict[str, Remark]:
    """What the counts of blocks (records, separators, documents with NUL) say of the files."""
    remarks = Remarks()
    cuts = reading.document_separator is not None
    end = 0
    for file, blocks in zip(files, blocks_of_files.tolist(), strict=True):
        begin, end = end, end + blocks
        records, separators, nul = (sum(column) for column in zip((0, 0, 0), *counts[begin:end], strict=True))
        if not records and not separators:
            remarks.add("empty", file.name)
        elif cuts and file.format == TEXT and not separators:
            remarks.add("unseparated", file.name)
        if nul:
            remarks.add("nul", file.name)
    return remarks.by_kind


def selected_blocks(
    files: list[InputFile], reading: Reading, scan: Scan, wanted: np.ndarray
) -> Iterator[tuple[Block, slice]]:
    """The blocks that hold a wanted document, with the place of their documents in the scan.

    Files without any are not opened.

    Args:
        wanted: bool `[documents]`.

    Raises:
        DataError: a file has changed since it was scanned.
    """
    last_documents = np.cumsum(scan.blocks)
    last_blocks = np.cumsum(scan.blocks_of_files)
    for number, file in enumerate(files):
        block_number = int(last_blocks[number - 1]) if number else 0
        end_block = int(last_blocks[number])
        begin = int(last_documents[block_number - 1]) if block_number else 0
        end = int(last_documents[end_block - 1]) if end_block else 0
        if not wanted[begin:end].any():
            continue
        for block in read_blocks(file, reading):
            if block_number >= end_block:
                raise changed(file.place)
            span = slice(
                int(last_documents[block_number] - scan.blocks[block_number]), int(last_documents[block_number])
            )
            if wanted[span].any():
                yield block, span
            block_number += 1
        if block_number != end_block:
            raise changed(file.place)


def changed(name: str) -> DataError:
    """The error for a file that is not what it was when it was scanned."""
    return DataError(f"{name}: changed while the data set was being built. Run the build again when it is at rest.")


def assign_splits(scan: Scan, fraction: float | None) -> np.ndarray:
    """uint8 `[documents]`: TRAIN, VALIDATION, or DROPPED for all but the first of equal documents.

    A document is in the validation split if its hash, as a number from 0 to 1, is below the fraction; so it stays there
    when the corpus grows. Of two documents or more, at least one is in each split.

    Args:
        fraction: of the documents; None chooses one that gives about 5 MB of text, but 0.05 % to 5 %.
    """
    order = np.lexsort((scan.digests["low"], scan.digests["high"]))  # stable: equals stay in order
    ordered = scan.digests[order]
    repeats = np.concatenate([[False], ordered[1:] == ordered[:-1]])
    splits = np.full(len(order), TRAIN, dtype=np.uint8)
    splits[order[repeats]] = DROPPED
    kept = order[~repeats]  # by hash, smallest first
    if fraction is None:
        text_bytes = int(scan.sizes[kept].sum(dtype=np.int64))
        fraction = min(max(_VALIDATION_BYTES / text_bytes, _SMALLEST_FRACTION), _LARGEST_FRACTION)
    if fraction > 0 and len(kept) > 1:
        below = int(np.searchsorted(scan.digests["high"][kept], np.uint64(int(fraction * 2**64))))
        splits[kept[: min(max(below, 1), len(kept) - 1)]] = VALIDATION
    return splits


def assign_shards(sizes: np.ndarray, shard_bytes: int) -> np.ndarray:
    """int64 `[shards + 1]`: borders of runs of documents with about `shard_bytes` of text each."""
    ends = np.cumsum(sizes, dtype=np.int64)
    shards = (ends - 1) // shard_bytes  # the shard in which a document's last byte falls
    first = np.flatnonzero(np.concatenate([[True], shards[1:] != shards[:-1]])) if len(sizes) else np.zeros(0, np.int64)
    return np.concatenate([first, [len(sizes)]]) if len(sizes) else np.zeros(1, np.int64)


def sample_documents(scan: Scan, splits: np.ndarray, sample_bytes: int) -> np.ndarray:
    """bool `[documents]`: training documents with about `sample_bytes` of text, chosen by hash."""
    training = splits == TRAIN
    text_bytes = int(scan.sizes[training].sum(dtype=np.int64))
    if text_bytes <= sample_bytes:
        return training
    limit = np.uint64(int(sample_bytes / text_bytes * 2**64))
    # The low half of the digest: the high half chose the split.
    chosen = training & (scan.digests["low"] < limit)
    if not chosen.any():
        chosen[np.flatnonzero(training)[0]] = True
    return chosen


def file_key(files: Iterable[InputFile]) -> str:
    """Changes when a file does, as far as its name, size and time tell."""
    return hashlib.sha256(repr([(file.name, file.size, file.modified) for file in files]).encode()).hexdigest()
