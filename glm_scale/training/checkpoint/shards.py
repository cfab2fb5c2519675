"""Tensors of a checkpoint, through torch.distributed.checkpoint: every rank writes and reads its own pieces.

On disk a tensor is called kind/name ("weight/embedding.weight"), has the shape that one device would give it and is cut
into boxes. So what was written by one layout is read by any other, each rank reading no more than it holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.default_planner import create_default_global_save_plan
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from glm_scale.errors import UserError
from glm_scale.training.checkpoint.files import sync_folder as sync_file
from glm_scale.training.checkpoint.points import Point, Reached
from glm_scale.training.checkpoint.reading import Checkpoint
from glm_scale.training.pieces import Box, Piece

__all__ = ["KINDS", "load_pieces", "on_cpu", "read_tensors", "save_pieces", "shapes_in"]

KINDS = ("weight", "exp_avg", "exp_avg_sq")


def save_pieces(folder: Path, pieces: Sequence[Piece], group: Any, reached: Reached) -> list[Path]:
    """Writes this rank's pieces into a folder; all ranks of `group` do so together (None: there is one process).

    Returns the files that this rank wrote, synced to the disk.
    """
    writer = _Writer(folder, reached)
    dcp.save({}, storage_writer=writer, planner=_SavePlanner(pieces), process_group=group, no_dist=group is None)
    rank = 0 if group is None else torch.distributed.get_rank(group)
    files = sorted(folder.glob(f"__{rank}_*.distcp"))
    if rank == 0:
        files.append(folder / ".metadata")
    return files


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
    """Every parameter's name with its whole tensors of the given kinds, on the CPU, one parameter at a time."""
    with checkpoint.reading():
        reader = _Reader(checkpoint.path)
        for name, shape in shapes_in(reader.metadata).items():
            tensors = {kind: torch.empty(shape) for kind in kinds}
            whole = Box((0,) * len(shape), shape)
            reader.read({(f"{kind}/{name}", whole.offsets): (whole, tensor) for kind, tensor in tensors.items()})
            yield name, tensors


def shapes_in(metadata: Metadata) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters in a checkpoint, in the order in which they were written."""
    found = {}
    for key, entry in metadata.state_dict_metadata.items():
        kind, _, name = key.partition("/")
        if kind == "weight" and isinstance(entry, TensorStorageMetadata):
            found[name] = tuple(entry.size)
    return found


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


class _Writer(dcp.FileSystemWriter):
    """Files of a rank, synced one by one, with the named points of a save in between."""

    def __init__(self, folder: Path, reached: Reached) -> None:
        super().__init__(folder, single_file_per_rank=True, sync_files=False)
        self._folder, self._reached = folder, reached

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Any:
        self._reached(Point.BEFORE_SHARD)
        written = super().write_data(plan, planner)
        results = written.wait()
        self._reached(Point.SHARD_WRITTEN)
        for name in {result.storage_data.relative_path for result in results}:
            sync_file(self._folder / name)
        self._reached(Point.SHARD_SYNCED)
        return written

    def finish(self, metadata: Metadata, results: Any) -> None:
        super().finish(metadata, results)
        sync_file(self._folder / ".metadata")


@dataclass(frozen=True)
class _LoadPlanner(LoadPlanner):
    """Reads boxes into given tensors."""

    targets: dict[tuple[str, tuple[int, ...]], tuple[Box, Tensor]]

    def set_up_planner(self, state_dict: Any, metadata: Any = None, is_coordinator: bool = False) -> None:
        pass

    def create_local_plan(self) -> LoadPlan:
        raise NotImplementedError("each rank plans for itself")

    create_global_plan = finish_plan = load_bytes = resolve_bytes = create_local_plan  # type: ignore[assignment]

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        assert read_item.dest_index.offset is not None
        _, tensor = self.targets[read_item.dest_index.fqn, tuple(read_item.dest_index.offset)]
        for dimension, (start, length) in enumerate(zip(read_item.dest_offsets, read_item.lengths, strict=True)):
            tensor = tensor.narrow(dimension, start, length)
        return tensor

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        pass


class _Reader:
    """The tensors of one checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._storage = dcp.FileSystemReader(folder)
        self.metadata = self._storage.read_metadata()
        self._storage.set_up_storage_reader(self.metadata, is_coordinator=True)

    def check(self, key: str, shape: tuple[int, ...]) -> None:
        """Raises UserError unless there is such a tensor."""
        entry = self.metadata.state_dict_metadata.get(key)
        found = tuple(entry.size) if isinstance(entry, TensorStorageMetadata) else None
        if found != shape:
            raise UserError(
                f"{self.folder} is of another model: {key} is {'missing' if found is None else list(found)} there, "
                f"and {list(shape)} here"
            )

    def read(self, targets: dict[tuple[str, tuple[int, ...]], tuple[Box, Tensor]]) -> None:
        """Reads every target: a box, and the tensor of its sizes."""
        items: list[ReadItem] = []
        for (key, _), (box, _) in targets.items():
            entry = self.metadata.state_dict_metadata[key]
            assert isinstance(entry, TensorStorageMetadata)
            items += create_read_items_for_chunk_list(key, entry, [_chunk(box)])
        self._storage.read_data(LoadPlan(items), _LoadPlanner(targets)).wait()


def _targets(pieces: Sequence[Piece]) -> dict[tuple[str, tuple[int, ...]], tuple[Box, Tensor]]:
    return {
        (f"{kind}/{piece.name}", box.offsets): (box, tensor[where].view(box.sizes))
        for piece in pieces
        for box, where in piece.boxes()
        for kind, tensor in piece.tensors.items()
    }


def _chunk(box: Box) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size(box.offsets), torch.Size(box.sizes))


def on_cpu(pieces: Iterable[Piece]) -> list[Piece]:
    """Copies of pieces in host memory: they stay what they are while training goes on."""
    return [
        replace(piece, tensors={kind: t.detach().to("cpu", copy=True) for kind, t in piece.tensors.items()})
        for piece in pieces
    ]
