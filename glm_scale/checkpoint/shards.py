"""Tensors of a checkpoint, through torch.distributed.checkpoint: every rank writes and reads its own pieces.

On disk a tensor is called kind/name ("weight/embedding.weight"), has the shape that one device would give it and is cut
into boxes. So what was written by one layout is read by any other, each rank reading no more than it holds.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import create_default_global_save_plan
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from glm_scale.checkpoint.files import FileRecord, cannot_write
from glm_scale.checkpoint.pieces import Box, Piece
from glm_scale.checkpoint.points import Reached
from glm_scale.checkpoint.reading import Checkpoint
from glm_scale.checkpoint.storage import ShardFiles, StateIndex, StateWriter
from glm_scale.errors import UserError

__all__ = ["KINDS", "load_pieces", "on_cpu", "read_tensors", "save_pieces"]

KINDS = ("weight", "exp_avg", "exp_avg_sq")


def save_pieces(folder: Path, pieces: Sequence[Piece], group: Any, reached: Reached) -> dict[str, FileRecord]:
    """Writes this rank's pieces into a folder; all ranks of `group` do so together (None: there is one process).

    Returns the files that this rank wrote, synced to the disk. Raises UserError, on all ranks, if one cannot write.
    """
    writer = StateWriter(folder, 0 if group is None else torch.distributed.get_rank(group), reached)
    with warnings.catch_warnings():
        # That there is no process group is meant where there is one process.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        try:
            dcp.save(
                {}, storage_writer=writer, planner=_SavePlanner(pieces), process_group=group, no_dist=group is None
            )
        except CheckpointException as error:
            rank, (cause, _) = min(error.failures.items())
            if isinstance(cause, OSError):
                raise cannot_write(folder, cause) from cause
            raise UserError(f"rank {rank} could not write its shard: {cause}") from cause
    return writer.written


def load_pieces(folder: Path, pieces: Sequence[Piece]) -> None:
    """Fills this rank's pieces from a checkpoint, whatever layout wrote it. No collective.

    Raises UserError if the checkpoint is of another model.
    """
    reader = _Reader(folder)
    for piece in pieces:
        for kind in piece.tensors:
            reader.check(f"{kind}/{piece.name}", piece.shape)
    reader.read(_targets(pieces))


def read_tensors(checkpoint: Checkpoint, kinds: Iterable[str] = ("weight",)) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every parameter's name with its whole tensors of those of the given kinds that it has, on the CPU, one parameter
    at a time."""
    with checkpoint.reading():
        reader = _Reader(checkpoint.path)
        for name, shape in _shapes(reader.index).items():
            tensors = {kind: torch.empty(shape) for kind in kinds if f"{kind}/{name}" in reader.index.tensors}
            whole = Box((0,) * len(shape), shape)
            reader.read({(f"{kind}/{name}", whole.offsets): (whole, tensor) for kind, tensor in tensors.items()})
            yield name, tensors


def _shapes(index: StateIndex) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters in a checkpoint, in the order in which they were written."""
    pairs = ((key.partition("/"), entry.size) for key, entry in index.tensors.items())
    return {name: tuple(size) for (kind, _, name), size in pairs if kind == "weight"}


class _SavePlanner(SavePlanner):
    """What this rank writes: every box of every kind of its pieces."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._tensors: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        self._items: list[WriteItem] = []
        for piece in pieces:
            for box, where in piece.boxes():
                for kind, tensor in piece.tensors.items():
                    self._add(f"{kind}/{piece.name}", piece.shape, box, tensor[where].view(box.sizes))

    def _add(self, key: str, shape: tuple[int, ...], box: Box, tensor: Tensor) -> None:
        self._tensors[key, box.offsets] = tensor
        data = TensorWriteData(_chunk(box), TensorProperties(dtype=tensor.dtype), torch.Size(shape))
        index = MetadataIndex(key, torch.Size(box.offsets))
        self._items.append(WriteItem(index, WriteItemType.SHARD, tensor_data=data))

    def set_up_planner(self, state_dict: Any, storage_meta: Any = None, is_coordinator: bool = False) -> None:
        pass

    def create_local_plan(self) -> SavePlan:
        return SavePlan(self._items)

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        return create_default_global_save_plan(all_plans)

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        return new_plan

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        assert write_item.index.offset is not None
        return self._tensors[write_item.index.fqn, tuple(write_item.index.offset)]


class _Reader:
    """The tensors of one checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = StateIndex(folder)

    def check(self, key: str, shape: tuple[int, ...]) -> None:
        """Raises UserError unless there is such a tensor."""
        entry = self.index.tensors.get(key)
        found = None if entry is None else tuple(entry.size)
        if found != shape:
            raise UserError(
                f"{self.folder} is of another model: {key} is {'missing' if found is None else list(found)} there, "
                f"and {list(shape)} here"
            )

    def read(self, targets: Mapping[tuple[str, tuple[int, ...]], tuple[Box, Tensor]]) -> None:
        """Fills every target: a box, and the tensor of its sizes."""
        with ShardFiles(self.folder) as files:
            for (key, _), (box, target) in targets.items():
                entry = self.index.tensors[key]
                for item in create_read_items_for_chunk_list(key, entry, [_chunk(box)]):
                    assert item.storage_index.offset is not None
                    place, sizes = self.index.box(key, tuple(item.storage_index.offset))
                    stored = files.numbers(place, entry.properties.dtype).view(sizes)
                    source = _narrowed(stored, item.storage_offsets, item.lengths)
                    _narrowed(target, item.dest_offsets, item.lengths).copy_(source)


def _narrowed(tensor: Tensor, offsets: Sequence[int], sizes: Sequence[int]) -> Tensor:
    for dimension, (offset, size) in enumerate(zip(offsets, sizes, strict=True)):
        tensor = tensor.narrow(dimension, offset, size)
    return tensor


def _targets(pieces: Sequence[Piece]) -> dict[tuple[str, tuple[int, ...]], tuple[Box, Tensor]]:
    return {
        (f"{kind}/{piece.name}", box.offsets): (box, tensor[where].view(box.sizes))
        for piece in pieces
        for box, where in piece.boxes()
        for kind, tensor in piece.tensors.items()
    }


def _chunk(box: Box) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size(box.offsets), torch.Size(box.sizes))


def on_cpu(pieces: Iterable[Piece], room: Sequence[Piece] = ()) -> list[Piece]:
    """Copies of pieces in host memory: they stay what they are while training goes on.

    room: earlier copies of the same pieces, which are not needed any more. New memory costs several times the copy.
    """
    given = list(pieces)
    if not room:
        room = [replace(piece, tensors={k: _room_for(t) for k, t in piece.tensors.items()}) for piece in given]
    for piece, copy in zip(given, room, strict=True):
        for kind, tensor in piece.tensors.items():
            copy.tensors[kind].copy_(tensor, non_blocking=True)
    if torch.cuda.is_initialized():
        torch.cuda.current_stream().synchronize()
    return list(room)


def _room_for(tensor: Tensor) -> Tensor:
    """Page-locked where a GPU copies into it, which is much faster."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
