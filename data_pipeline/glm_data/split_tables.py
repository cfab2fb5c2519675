"""The two tables of a split, which say where in its shards every document lies: their names, and writing them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from glm_data.files import sha256_file, write_array
from glm_data.index import Shard, Split, Table

__all__ = ["table_names", "write_split"]


def table_names(split: str) -> tuple[str, str]:
    """File names of the tables of a split: documents, checksums."""
    return f"{split}.documents.npy", f"{split}.checksums.npy"


def write_split(
    directory: Path, split: str, shards: Sequence[Shard], documents: np.ndarray, checksums: np.ndarray
) -> Split:
    """Write the tables of the documents in `shards`: `DOCUMENT` records, and the CRC-32 of all their blocks."""
    tables = []
    for name, table in zip(table_names(split), (documents, checksums), strict=True):
        write_array(directory / name, table)
        tables.append(Table(name=name, sha256=sha256_file(directory / name)))
    return Split(
        documents=len(documents),
        tokens=sum(shard.tokens for shard in shards),
        text_bytes=sum(shard.text_bytes for shard in shards),
        shards=list(shards),
        document_table=tables[0],
        checksum_table=tables[1],
    )
