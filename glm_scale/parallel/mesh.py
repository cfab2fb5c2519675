"""Which ranks share what: a mesh of data × sequence × tensor ranks over the processes of a run.

Tensor ranks are neighbours, then sequence ranks, then data ranks, so that what is exchanged most often stays inside of
a machine. The groups are those of megatron-core, whose layers ask its `parallel_state` for them; its context-parallel
group is our sequence group.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import distributed as dist

from glm_scale.errors import UserError
from glm_scale.parallel.axis import SequenceAxis, TensorAxis
from glm_scale.parallel.collectives.communicator import GroupCommunicator
from glm_scale.parallel.sequence.strategies import SequenceStrategy


@dataclass(frozen=True)
class Layout:
    """Ranks along each axis. Weights are split over `tensor`, tokens over `sequence`, whole sequences over `data`."""

    tensor: int = 1
    sequence: int = 1
    data: int = 1

    @classmethod
    def of(cls, processes: int, *, tensor: int = 1, sequence: int = 1) -> Layout:
        """All processes, as many data ranks as there are left. Raises UserError if they do not come out even."""
        together = tensor * sequence
        if processes % together:
            below, above = processes // together * together, -(-processes // together) * together
            nearest = " or ".join(str(count) for count in (below, above) if count)
            raise UserError(
                f"{processes} processes cannot be laid out in groups of tensor {tensor} × sequence {sequence} "
                f"(context parallelism) = {together}; the nearest numbers of processes that can are {nearest}"
            )
        return cls(tensor, sequence, processes // together)

    @property
    def processes(self) -> int:
        """How many there are in all."""
        return self.tensor * self.sequence * self.data

    def __str__(self) -> str:
        return f"data {self.data} × sequence {self.sequence} × tensor {self.tensor}"


class Mesh:
    """The groups of this process. There is one at a time, since megatron-core keeps it for its layers; `close` ends it.

    The process group has to run, with as many processes as the layout has. shards_tokens: see `TensorAxis`; strategy:
    see `SequenceAxis`.
    """

    def __init__(
        self, layout: Layout, *, shards_tokens: bool = False, strategy: SequenceStrategy | None = None
    ) -> None:
        from megatron.core import parallel_state

        if dist.get_world_size() != layout.processes:
            raise ValueError(f"{dist.get_world_size()} processes run, but {layout} are {layout.processes}")
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=layout.tensor,
            context_parallel_size=layout.sequence,
            create_gloo_process_groups=False,
        )
        self.layout = layout
        self._state = parallel_state
        self._shards_tokens, self._strategy = shards_tokens, strategy

    def close(self) -> None:
        """Give the groups of processes back."""
        self._state.destroy_model_parallel()

    @property
    def tensor_group(self) -> Any:
        """Ranks that hold parts of the same weights and work on the same tokens."""
        return self._state.get_tensor_model_parallel_group()

    @property
    def replica_group(self) -> Any:
        """Ranks that hold the same weights: data × sequence. Gradients are summed over them."""
        return self._state.get_data_parallel_group(with_context_parallel=True)

    @cached_property
    def tensor(self) -> TensorAxis | None:
        """The tensor axis of this rank; None if there is one rank on it."""
        size, group = self.layout.tensor, self.tensor_group
        return TensorAxis(group, self.tensor_rank, size, group.group_name, self._shards_tokens) if size > 1 else None

    @property
    def sequence_group(self) -> Any:
        """Ranks that hold tokens of the same sequences."""
        return self._state.get_context_parallel_group()

    @property
    def sequence_rank(self) -> int:
        """This rank's place among those that hold tokens of the same sequences."""
        return dist.get_rank(self.sequence_group)

    @cached_property
    def sequence(self) -> SequenceAxis | None:
        """The sequence axis of this rank; None if there is one rank on it."""
        if self.layout.sequence == 1:
            return None
        return SequenceAxis(GroupCommunicator(self.sequence_group), self._strategy)

    @property
    def data_rank(self) -> int:
        """Which of the data ranks this one is: those of one number work on the same sequences."""
        return int(self._state.get_data_parallel_rank(with_context_parallel=False))

    @property
    def tensor_rank(self) -> int:
        """This rank's place among those that hold parts of the same weights."""
        return int(self._state.get_tensor_model_parallel_rank())

    def mpu(self) -> DeepSpeedGroups:
        """What DeepSpeed asks of a "model parallel unit"."""
        return DeepSpeedGroups(self)


@dataclass(frozen=True)
class DeepSpeedGroups:
    """A mesh by the names that DeepSpeed knows: its model parallel group is our tensor group, its data parallel group
    are the ranks that hold the same weights."""

    mesh: Mesh

    def get_model_parallel_group(self) -> Any:
        """The tensor ranks."""
        return self.mesh.tensor_group

    def get_model_parallel_rank(self) -> int:
        """Of this process among the tensor ranks."""
        return dist.get_rank(self.mesh.tensor_group)

    def get_model_parallel_world_size(self) -> int:
        """How many tensor ranks there are."""
        return self.mesh.layout.tensor

    def get_data_parallel_group(self) -> Any:
        """Ranks with the same part of the weights: data and sequence ranks."""
        return self.mesh.replica_group

    def get_data_parallel_rank(self) -> int:
        """Of this process among them."""
        return dist.get_rank(self.mesh.replica_group)

    def get_data_parallel_world_size(self) -> int:
        """How many of them there are."""
        return self.mesh.layout.data * self.mesh.layout.sequence

    get_tensor_model_parallel_group = get_model_parallel_group
    get_tensor_model_parallel_rank = get_model_parallel_rank
    get_tensor_model_parallel_world_size = get_model_parallel_world_size
