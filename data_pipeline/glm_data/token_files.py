"""Files of token ids that other programs have written.

* Megatron-LM: PREFIX.bin with the ids and PREFIX.idx with where each document lies, read by megatron-core.
* nanoGPT: a .bin of nothing but ids, uint16 in its own scripts.
* llm.c and modded-nanogpt: the same behind a header of 256 int32, which says how many there are.

The last two say nothing of documents: they are cut where the token stands that ends one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from glm_data.errors import DataError, unreadable

IdType = Literal["uint16", "uint32"]

_HEADER = np.dtype(("<i4", 256))
_MAGIC = {20240520: "uint16", 20240801: "uint32"}
_IDS_SEARCHED = 1 << 26
_SHORTEST = 3
"""Tokens of a document: one between its beginning and its end."""


@dataclass(frozen=True)
class TokenFile:
    """Ids in a file, from byte `begin` on.

    documents: int64 `[documents, 2]`, the first token of each and the one behind its last; None where nothing says it.
    """

    path: Path
    dtype: IdType
    begin: int
    tokens: int
    documents: np.ndarray | None

    def ids(self) -> np.ndarray:
        """All of them, mapped into memory."""
        dtype = np.dtype(self.dtype).newbyteorder("<")
        return np.memmap(self.path, dtype, mode="r", offset=self.begin, shape=(self.tokens,))


def open_tokens(path: Path, dtype: IdType) -> TokenFile:
    """The file at `path`; `dtype` is that of the ids of a file which does not say it.

    Raises:
        DataError: it cannot be read, is damaged, or holds something else.
    """
    try:
        size = path.stat().st_size
        if (index := path.with_suffix(".idx")).exists():
            return _of_megatron(path, index, size)
        with path.open("rb") as file:
            begin = file.read(_HEADER.itemsize)
    except OSError as error:
        raise unreadable(path, error) from error
    header = np.frombuffer(begin, "<i4", len(begin) // 4)
    if len(header) == 256 and int(header[0]) in _MAGIC:
        return _with_header(path, header, size)
    width = np.dtype(dtype).itemsize
    if size == 0 or size % width:
        raise DataError(f"{path}: {size:,} bytes are no whole number of {dtype} ids. See --id-type, or fetch it again.")
    found = TokenFile(path, dtype, 0, size // width, None)
    upper = found.ids()[1:_IDS_SEARCHED:2]
    if dtype == "uint16" and len(upper) and not upper.any():
        raise DataError(f"{path}: every second id is 0, so it may hold uint32: give --id-type uint32.")
    return found


def spans_of_documents(file: TokenFile, bos: int, eos: int) -> np.ndarray:
    """int64 `[documents, 2]`: the first token of each and the one behind its last.

    Where one token both begins and ends documents and stands between them once, it belongs to both. Documents without
    anything between beginning and end are left out.
    """
    ids = file.ids()
    if file.documents is None:
        ends = 1 + np.concatenate([np.zeros(0, np.int64), *_places(ids, eos)])
        if not len(ends) or ends[-1] < file.tokens:
            ends = np.append(ends, file.tokens)
        spans = np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1)
    else:
        spans = file.documents.copy()
    if bos == eos:
        inside = spans[:, 0] > 0
        shared = inside & (ids[spans[:, 0]] != bos) & (ids[np.where(inside, spans[:, 0] - 1, 0)] == eos)
        spans[shared, 0] -= 1
    return spans[spans[:, 1] - spans[:, 0] >= _SHORTEST]


def _places(ids: np.ndarray, wanted: int) -> list[np.ndarray]:
    starts = range(0, len(ids), _IDS_SEARCHED)
    return [start + np.flatnonzero(ids[start : start + _IDS_SEARCHED] == wanted) for start in starts]


def _with_header(path: Path, header: np.ndarray, size: int) -> TokenFile:
    dtype: IdType = "uint16" if _MAGIC[int(header[0])] == "uint16" else "uint32"
    tokens = int(header[2])
    wanted = _HEADER.itemsize + tokens * np.dtype(dtype).itemsize
    if size != wanted:
        raise DataError(f"{path}: has {size:,} bytes, but by its header {wanted:,}. Fetch it again.")
    return TokenFile(path, dtype, _HEADER.itemsize, tokens, None)


def _of_megatron(path: Path, index_path: Path, size: int) -> TokenFile:
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    try:
        index = IndexedDataset(str(path.with_suffix("")), multimodal=False, mmap=False).index
        kind = np.dtype(index.dtype)
        lengths, pointers = index.sequence_lengths.astype(np.int64), index.sequence_pointers.astype(np.int64)
        borders = index.document_indices.astype(np.int64)
        sound = len(borders) > 0 and borders[0] == 0 and borders[-1] == len(lengths) and (np.diff(borders) >= 0).all()
    except (AssertionError, ValueError, KeyError, IndexError, OSError) as error:
        raise DataError(f"{index_path}: damaged, or no index of Megatron: {error}.") from error
    if kind not in (np.uint16, np.int32):
        raise DataError(f"{index_path}: its ids are {kind}; those that can be read are uint16 and int32.")
    ends = pointers + lengths * kind.itemsize
    if not sound or (lengths < 0).any() or (pointers[1:] != ends[:-1]).any() or (pointers % kind.itemsize).any():
        raise DataError(f"{index_path}: damaged: its documents do not lie one behind the other.")
    if len(ends) and size < ends[-1]:
        raise DataError(f"{path}: has {size:,} bytes, but by its index {int(ends[-1]):,}. Fetch it again.")
    places = np.append(pointers // kind.itemsize, size // kind.itemsize if not len(ends) else ends[-1] // kind.itemsize)
    documents = np.stack([places[borders[:-1]], places[borders[1:]]], axis=1)
    return TokenFile(path, "uint16" if kind == np.uint16 else "uint32", 0, size // kind.itemsize, documents)
