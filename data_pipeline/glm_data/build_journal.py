"""What an unfinished build has done so far, kept beside its shards until the index is written."""

import fcntl
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from glm_data.errors import DataError
from glm_data.files import atomic_writer, write_atomically
from glm_data.index import INDEX_NAME, SPLITS, Shard
from glm_data.split_tables import table_names
from glm_data.tokenizers import tokenizer_files

_DIRECTORY = ".build"


@dataclass(frozen=True)
class ShardRecord:
    """A finished shard: its entry for the index and the tables of its documents (see `ShardWriter.finish`)."""

    shard: Shard
    documents: np.ndarray
    checksums: np.ndarray


class BuildJournal:
    """The working directory of a build, `<output>/.build`.

    A record is written after the file that it speaks of is whole and on the disk, and carries a key of all that the
    file was made from: a record under another key is as good as none.
    """

    def __init__(self, output: Path):
        self._output = output
        self.directory = output / _DIRECTORY

    @property
    def exists(self) -> bool:
        """Whether the output holds an unfinished build."""
        return self.directory.is_dir()

    def request(self) -> dict[str, Any] | None:
        """What the unfinished build was asked to do."""
        try:
            return json.loads((self.directory / "request.json").read_bytes())
        except (OSError, ValueError):
            return None

    def begin(self, request: dict[str, Any]) -> None:
        """Create the working directory."""
        self.directory.mkdir(exist_ok=True)
        write_atomically(self.directory / "request.json", json.dumps(request, indent=1))

    @property
    def scan_path(self) -> Path:
        """Where the first pass is kept."""
        return self.directory / "scan.npz"

    def temporary(self, name: str) -> Path:
        """Where a file of the output grows until it is whole."""
        return self.directory / name

    def has_tokenizer(self, key: str) -> bool:
        """Whether the tokenizer of the output was made under this key."""
        try:
            return (self.directory / "tokenizer.key").read_text(encoding="utf-8") == key
        except OSError:
            return False

    def record_tokenizer(self, key: str) -> None:
        """Note that the tokenizer of the output is whole."""
        write_atomically(self.directory / "tokenizer.key", key)

    def record_shard(self, record: ShardRecord, key: str) -> None:
        """Note that a shard is whole."""
        with atomic_writer(self._record_path(record.shard.name)) as file:
            np.savez(
                file,
                key=np.array(key),
                shard=np.array(record.shard.model_dump_json()),
                documents=record.documents,
                checksums=record.checksums,
            )

    def shard(self, name: str, key: str) -> ShardRecord | None:
        """The record of a shard that is whole, if there is one under this key."""
        try:
            with np.load(self._record_path(name), allow_pickle=False) as saved:
                if str(saved["key"]) != key:
                    return None
                shard = Shard.model_validate_json(str(saved["shard"]))
                if (self._output / name).stat().st_size != shard.bytes:
                    return None
                return ShardRecord(shard, saved["documents"], saved["checksums"])
        except (OSError, ValueError, KeyError, ValidationError, zipfile.BadZipFile):
            return None

    def _record_path(self, shard_name: str) -> Path:
        return self.directory / f"{shard_name}.npz"

    def remove(self) -> None:
        """Remove the working directory."""
        shutil.rmtree(self.directory, ignore_errors=True)


def discard(output: Path) -> None:
    """Remove a data set, finished or not, and nothing else that may lie in its directory."""
    (output / INDEX_NAME).unlink(missing_ok=True)  # first: from here on there is no data set
    remove_shards(output, keep=set())
    for name in tokenizer_files(output):
        (output / name).unlink(missing_ok=True)
    for split in SPLITS:
        for name in table_names(split):
            (output / name).unlink(missing_ok=True)
    BuildJournal(output).remove()


def remove_shards(output: Path, keep: set[str]) -> None:
    """Remove the shards that are not to be kept."""
    for split in SPLITS:
        for path in output.glob(f"{split}-[0-9]*.tar"):
            if path.name not in keep:
                path.unlink()


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a directory against other builds; the lock ends with the process, however that ends."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"{directory}: another build is writing here. Wait for it, or choose another --output."
            ) from None
        yield
    finally:
        os.close(descriptor)
