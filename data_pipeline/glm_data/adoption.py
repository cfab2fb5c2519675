"""A data set of tokens that other programs have written, read where they lie: an index and tables over their files.

All tokens are read now, for what a build knows of its own: checksums of blocks, the bytes of text of each document,
duplicates, the validation split. The files stay as they are, and what is read later is held to that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from rich.console import Console

from glm_data.build_journal import discard, locked
from glm_data.build_progress import BuildProgress
from glm_data.errors import DataError
from glm_data.files import sha256_file, write_atomically
from glm_data.index import (
    BLOCK_BYTES,
    DOCUMENT,
    FORMAT,
    INDEX_NAME,
    Counts,
    DatasetIndex,
    Input,
    Shard,
    Split,
    load_index,
)
from glm_data.scan import DIGEST, DROPPED, SPLIT_CODES, Scan, assign_splits
from glm_data.settings import Settings
from glm_data.shards import block_checksums
from glm_data.split_tables import write_split
from glm_data.token_files import IdType, TokenFile, open_tokens, spans_of_documents
from glm_data.tokenizers import Tokenizer, load_tokenizer

_IDS_AT_A_TIME = 1 << 24


class AdoptConfig(Settings):
    """What to read in place.

    Attributes:
        inputs: .bin files: of Megatron with its .idx beside it, of nanoGPT, of llm.c or modded-nanogpt.
        output: directory of the data set.
        tokenizer: the one whose ids they are; see `BuildConfig`.
        bos_token, eos_token: see `BuildConfig`.
        id_type: of ids in files that do not say it.
        validation_fraction: see `BuildConfig`.
        overwrite: replace what the output holds.
    """

    inputs: list[Path] = Field(min_length=1)
    output: Path
    tokenizer: Path
    bos_token: str | None = None
    eos_token: str | None = None
    id_type: IdType = "uint16"
    validation_fraction: float | None = Field(default=None, ge=0, le=0.5)
    overwrite: bool = False


@dataclass(frozen=True)
class _Read:
    """What was found in a file: `DOCUMENT` and `DIGEST` records of its documents, and the CRC-32 of their blocks."""

    path: Path
    documents: np.ndarray
    digests: np.ndarray
    checksums: np.ndarray


def adopt(config: AdoptConfig, console: Console | None = None) -> DatasetIndex:
    """Make the data set, or find that it is there.

    Raises:
        DataError: a file is damaged, or its ids are not the tokenizer's; the output holds something else.
    """
    tokenizer = load_tokenizer(config.tokenizer, config.bos_token, config.eos_token)
    files = [open_tokens(path.expanduser().resolve(), config.id_type) for path in config.inputs]
    if len(kinds := {file.dtype for file in files}) > 1:
        raise DataError(f"The files hold ids of different types ({', '.join(sorted(kinds))}): adopt them one by one.")
    try:
        config.output.mkdir(parents=True, exist_ok=True)
        with locked(config.output):
            return _adopt(config, files, tokenizer, BuildProgress(console))
    except OSError as error:
        raise DataError(f"{error.filename or config.output}: {error.strerror or error}.") from error


def _adopt(config: AdoptConfig, files: list[TokenFile], tokenizer: Tokenizer, progress: BuildProgress) -> DatasetIndex:
    request = _request(config, files, tokenizer)
    if config.overwrite:
        discard(config.output)
    elif (config.output / INDEX_NAME).exists():
        index = load_index(config.output)
        if {"settings": index.settings, "input": index.input.model_dump()} != request:
            raise DataError(f"{config.output}: holds another data set. Choose another --output, or use --overwrite.")
        return index
    with progress.stage("reading", sum(file.ids().nbytes for file in files)) as advance:
        found = [_read(file, tokenizer, advance) for file in files]
    index = _index(config.output, request, files[0].dtype, tokenizer, found, config.validation_fraction)
    for name, content in tokenizer.files.items():
        write_atomically(config.output / name, content)
    write_atomically(config.output / INDEX_NAME, index.dumps())
    return index


def _request(config: AdoptConfig, files: list[TokenFile], tokenizer: Tokenizer) -> dict[str, Any]:
    sizes = [(str(file.path), file.path.stat().st_size, file.path.stat().st_mtime_ns) for file in files]
    return {
        "settings": {
            "adopted": [path for path, _, _ in sizes],
            "tokenizer": tokenizer.fingerprint,
            "id_type": files[0].dtype,
            "validation_fraction": config.validation_fraction,
        },
        "input": {
            "files": len(files),
            "bytes": sum(size for _, size, _ in sizes),
            "sha256": hashlib.sha256(repr(sizes).encode()).hexdigest(),
        },
    }


def _read(file: TokenFile, tokenizer: Tokenizer, advance: Callable[[int, int], None]) -> _Read:
    ids = file.ids()
    spans = spans_of_documents(file, tokenizer.bos, tokenizer.eos)
    if not len(spans):
        raise DataError(f"{file.path}: holds no documents.")
    documents = np.zeros(len(spans), DOCUMENT)
    digests, checksums, blocks = np.zeros(len(spans), DIGEST), [], 0
    for numbers in _groups(spans):
        first, last = int(spans[numbers.start, 0]), int(spans[numbers.stop - 1, 1])
        piece = np.array(ids[first:last])
        _check_ids(file, piece, first, tokenizer)
        bytes_before = np.concatenate([[0], np.cumsum(tokenizer.token_bytes[piece], dtype=np.int64)])
        for number in range(numbers.start, numbers.stop):
            start, end = (int(place) - first for place in spans[number])
            raw = piece[start:end].tobytes()
            sums = block_checksums(raw)
            text_bytes = int(bytes_before[end] - bytes_before[start])
            documents[number] = (file.begin + (first + start) * piece.itemsize, blocks, end - start, text_bytes)
            digests[number] = np.frombuffer(hashlib.blake2b(raw, digest_size=DIGEST.itemsize).digest(), DIGEST)[0]
            checksums += sums
            blocks += len(sums)
        advance(len(numbers), piece.nbytes)
    return _Read(file.path, documents, digests, np.array(checksums, "<u4"))


def _groups(spans: np.ndarray) -> Iterator[range]:
    """Documents that are read together."""
    start = 0
    while start < len(spans):
        stop = int(np.searchsorted(spans[:, 1], spans[start, 0] + _IDS_AT_A_TIME, side="right"))
        stop = min(max(stop, start + 1), len(spans))
        yield range(start, stop)
        start = stop


def _check_ids(file: TokenFile, piece: np.ndarray, first: int, tokenizer: Tokenizer) -> None:
    largest = int(piece.max())
    if largest >= tokenizer.size:
        at = first + int(piece.argmax())
        raise DataError(
            f"{file.path}: token {at:,} has the id {largest:,}, but the tokenizer has {tokenizer.size:,} tokens. Give "
            "the tokenizer that the file was made with, or --id-type if its ids are of another type."
        )


def _index(
    output: Path,
    request: dict[str, Any],
    dtype: IdType,
    tokenizer: Tokenizer,
    found: list[_Read],
    fraction: float | None,
) -> DatasetIndex:
    digests = np.concatenate([read.digests for read in found])
    sizes = np.concatenate([read.documents["text_bytes"] for read in found])
    none = np.zeros(0, np.int64)
    scan = Scan(digests, sizes, none, none, len(sizes), 0, 0, {})
    splits = assign_splits(scan, fraction)
    first = np.cumsum([0, *(len(read.documents) for read in found)])
    places = [splits[a:b] for a, b in pairwise(first)]
    return DatasetIndex(
        format=FORMAT,
        origin=None,
        dtype=dtype,
        block_bytes=BLOCK_BYTES,
        vocabulary_size=tokenizer.size,
        tokenizer_sha256=tokenizer.fingerprint,
        tokenizer_files=list(tokenizer.files),
        settings=request["settings"],
        input=Input.model_validate(request["input"]),
        documents_sha256=scan.fingerprint,
        counts=Counts(records=len(sizes), bad=0, empty=0, duplicates=int((splits == DROPPED).sum())),
        splits={
            split: _write_split(output, split, found, [place == code for place in places])
            for split, code in SPLIT_CODES.items()
        },
    )


def _write_split(output: Path, split: str, found: list[_Read], chosen: list[np.ndarray]) -> Split:
    """The tables of the documents `chosen` of each file."""
    documents, checksums, shards, blocks = [np.zeros(0, DOCUMENT)], [np.zeros(0, "<u4")], [], 0
    for read, mine in zip(found, chosen, strict=True):
        kept = read.documents[mine].copy()
        counts: np.ndarray = np.diff(np.append(read.documents["block"], len(read.checksums)).astype(np.int64))
        checksums.append(read.checksums[np.repeat(mine, counts)])
        kept["block"] = blocks + np.cumsum(counts[mine]) - counts[mine]
        blocks += int(counts[mine].sum())
        documents.append(kept)
        if len(kept):
            shards.append(_shard(read.path, kept))
    return write_split(output, split, shards, np.concatenate(documents), np.concatenate(checksums))


def _shard(path: Path, documents: np.ndarray) -> Shard:
    """A file with those of its documents that are in a split."""
    tokens, text_bytes = (int(documents[name].sum(dtype=np.int64)) for name in ("tokens", "text_bytes"))
    return Shard(
        name=str(path), documents=len(documents), tokens=tokens, text_bytes=text_bytes, bytes=path.stat().st_size,
        sha256=sha256_file(path),
    )  # fmt: skip
