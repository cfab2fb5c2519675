"""How the tensors of a checkpoint lie on disk: one file of raw numbers for each rank that wrote, and a JSON index.

    shard-00002.bin   the boxes that rank 2 wrote, one behind the other: little-endian, row-major
    index.json        for every tensor its shape and dtype, and for every box of it offsets, sizes, file and place

torch.distributed.checkpoint plans who writes what and gathers the index; its own files would be pickles, which nobody
should load that does not know where they come from.
"""

from __future__ import annotations

import json
import mmap
import os
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from glm_scale.checkpoint.files import FileRecord, write_synced
from glm_scale.checkpoint.hashed_file import HashedFile
from glm_scale.checkpoint.points import Point, Reached

__all__ = ["INDEX", "FileRange", "ShardFiles", "StateIndex", "StateWriter"]

INDEX = "index.json"


class FileRange(NamedTuple):
    """Where the numbers of a box are: bytes of a file."""

    file: str
    start: int
    size: int


class StateWriter(StorageWriter):
    """Writes a rank's boxes into a folder. Afterwards `written` has this rank's files and what identifies them.

    The bytes are hashed while they are written: no file is read again.
    """

    def __init__(self, folder: Path, rank: int, reached: Reached) -> None:
        self.written: dict[str, FileRecord] = {}
        self._folder, self._reached = folder, reached
        self._name = f"shard-{rank:05d}.bin"

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        self._reached(Point.BEFORE_SHARD)
        results = []
        with HashedFile(self._folder / self._name) as file:
            for item in plan.items:
                data, at = _bytes_of(cast(Tensor, planner.resolve_data(item))), file.size
                file.write(data)
                results.append(WriteResult(item.index, len(data), FileRange(self._name, at, len(data))))
            record = file.finish()
            self._reached(Point.SHARD_WRITTEN)
            file.sync()
        self._reached(Point.SHARD_SYNCED)
        self.written[self._name] = record
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        places = {(r.index.fqn, tuple(r.index.offset or ())): r.storage_data for one in results for r in one}
        index: dict[str, Any] = {}
        for key, entry in metadata.state_dict_metadata.items():
            assert isinstance(entry, TensorStorageMetadata)
            boxes = [[list(c.offsets), list(c.sizes), *places[key, tuple(c.offsets)]] for c in entry.chunks]
            dtype = str(entry.properties.dtype).removeprefix("torch.")
            index[key] = {"shape": list(entry.size), "dtype": dtype, "boxes": boxes}
        content = json.dumps(index, separators=(",", ":")).encode()
        write_synced(self._folder / INDEX, content)
        self.written[INDEX] = FileRecord(len(content), sha256(content).hexdigest())

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return plans

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        pass

    def set_up_storage_writer(self, is_coordinator: bool, *arguments: Any, **named: Any) -> None:
        pass

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True


class StateIndex:
    """The tensors of a checkpoint by key, and where their boxes are."""

    def __init__(self, folder: Path) -> None:
        self.tensors: dict[str, TensorStorageMetadata] = {}
        self._boxes: dict[tuple[str, tuple[int, ...]], tuple[FileRange, torch.Size]] = {}
        for key, entry in json.loads((folder / INDEX).read_text(encoding="utf-8")).items():
            chunks = []
            for offsets, sizes, *place in entry["boxes"]:
                chunks.append(ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)))
                self._boxes[key, tuple(offsets)] = FileRange(*place), torch.Size(sizes)
            properties = TensorProperties(dtype=getattr(torch, entry["dtype"]))
            self.tensors[key] = TensorStorageMetadata(properties, torch.Size(entry["shape"]), chunks)

    def box(self, key: str, offsets: tuple[int, ...]) -> tuple[FileRange, torch.Size]:
        """Range and sizes of the box of a tensor that begins there."""
        return self._boxes[key, offsets]


class ShardFiles:
    """The files of a checkpoint, mapped into memory as they are asked for; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._maps: dict[str, mmap.mmap] = {}

    def __enter__(self) -> ShardFiles:
        return self

    def __exit__(self, *exception: object) -> None:
        # Maps go when the tensors on them do; closing one under a tensor would be an error.
        self._maps.clear()

    def numbers(self, place: FileRange, dtype: torch.dtype) -> Tensor:
        """The numbers of a box, flat. Who writes to them writes to a copy that is gone with the map."""
        if place.size == 0:
            return torch.empty(0, dtype=dtype)
        if place.file not in self._maps:
            with (self._folder / place.file).open("rb") as file:
                self._maps[place.file] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        count = place.size // dtype.itemsize
        return torch.frombuffer(self._maps[place.file], dtype=dtype, count=count, offset=place.start)


def _bytes_of(tensor: Tensor) -> NDArray[np.uint8]:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()
