"""Weights and Adam moments by parameter name, whatever ZeRO stage holds them.

A checkpoint speaks of logical parameters: the fp32 master weight, `exp_avg` and `exp_avg_sq` of each, in the shape that
one device would give it; of hidden matrices that Muon steps `exp_avg`, which is the momentum, alone. DeepSpeed keeps
them as pieces of flat buffers that differ from stage to stage, and tensor ranks have parts of them. This module alone
knows both sides; it leans on private attributes of DeepSpeed, which is why the package pins DeepSpeed's minor version
and tests every stage.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from glm_scale.checkpoint.pieces import Box, Piece
from glm_scale.parallel.axis import TensorAxis
from glm_scale.parallel.tensor.splitting import split_dimension, whole_shape
from glm_scale.training.matrix_exchange import Held
from glm_scale.training.muon import OwnRun

__all__ = ["MOMENTS", "LogicalState"]

MOMENTS = ("exp_avg", "exp_avg_sq")


class LogicalState:
    """The training state of a DeepSpeed engine as pieces of logical parameters.

    `tensor`: the ranks over which weights are split. `replicas`: (number of this rank, how many) among those that hold
    the same weights.
    """

    def __init__(self, engine: Any, tensor: TensorAxis | None = None, replicas: tuple[int, int] = (0, 1)) -> None:
        self._tensor = tensor
        self._replica, self._replicas = replicas
        self._stage = int(engine.zero_optimization_stage())
        self._optimizer = engine.optimizer
        self._adamw = engine.optimizer if self._stage == 0 else engine.optimizer.optimizer
        self._parameters: dict[str, nn.Parameter] = {
            name: parameter for name, parameter in engine.module.named_parameters() if parameter.requires_grad
        }
        self._create_moments()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter, in the model's order; of the whole one if tensor ranks have parts of it."""
        return {name: whole_shape(_shape(p), p, self._tensor) for name, p in self._parameters.items()}

    def held(self) -> Iterator[Piece]:
        """What this rank holds of weights and moments, as views: who writes into them has set the state.

        The compute weights follow at the next `publish`.
        """
        for name, parameter in self._parameters.items():
            found = self._held(parameter)
            if found is not None:
                start, tensors = found
                shape = whole_shape(_shape(parameter), parameter, self._tensor)
                yield Piece(name, shape, self._part(parameter), start, tensors)

    def owned(self) -> Iterator[Piece]:
        """Of what this rank holds, its share: those of all ranks together are the whole state, and each once."""
        for piece in self.held():
            split = split_dimension(self._parameters[piece.name]) is not None
            if self._tensor is not None and not split and self._tensor.rank > 0:
                continue  # every tensor rank holds the same
            if self._stage > 0:
                yield piece
                continue
            begin, end = (piece.numel * n // self._replicas for n in (self._replica, self._replica + 1))
            if begin < end:
                tensors = {kind: tensor[begin:end] for kind, tensor in piece.tensors.items()}
                yield Piece(piece.name, piece.shape, piece.part, begin, tensors)

    @property
    def applied_steps(self) -> int:
        """Optimizer steps behind the moments (Adam's bias correction); skipped steps do not count."""
        return int(next(self._states())["step"])

    @applied_steps.setter
    def applied_steps(self, steps: int) -> None:
        for state in self._states():
            state["step"].fill_(steps)

    def publish(self) -> None:
        """Copy the master weights to the weights that the forward pass uses. Collective."""
        optimizer = self._optimizer
        if self._stage in (1, 2):
            optimizer.update_lp_params()
        elif self._stage == 3:
            # Without this the forward pass goes on with the old weights, and nothing complains.
            for index in range(len(optimizer.fp16_groups)):
                optimizer._reassign_or_swap_out_partitioned_parameters(index)
            # Small parameters stay gathered between steps, so they have a second copy that is stale now.
            if optimizer.persistent_parameters:
                optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)

    def _part(self, parameter: nn.Parameter) -> Box:
        """The box of the whole parameter that this rank's tensor part is."""
        shape, dimension = _shape(parameter), split_dimension(parameter)
        rank = self._tensor.rank if self._tensor is not None and dimension is not None else 0
        return Box(tuple(rank * size if d == dimension else 0 for d, size in enumerate(shape)), shape)

    def _held(self, parameter: nn.Parameter) -> tuple[int, dict[str, Tensor]] | None:
        """Where in the flat tensor part this rank's run begins, and its numbers by kind; None if it holds none."""
        if self._stage == 0:
            tensors = {"weight": parameter.detach(), **_moments(self._optimizer.state[parameter])}
            return 0, {kind: tensor.view(-1) for kind, tensor in tensors.items()}
        if self._stage == 3:
            return self._held_in_stage_3(parameter)
        fragment = parameter._hp_mapping  # type: ignore[attr-defined]
        if fragment is None:
            return None
        moments = _moments(fragment.optim_fragment)
        return fragment.lp_fragment_address.start, {"weight": fragment.hp_fragment.detach(), **moments}

    def _held_in_stage_3(self, parameter: nn.Parameter) -> tuple[int, dict[str, Tensor]] | None:
        # Every rank has an equal run of every parameter, padded behind the end.
        group, at, size = self._optimizer.grad_position[self._optimizer.get_param_id(parameter)]
        start = self._replica * size
        count = min(size, parameter.ds_numel - start)  # type: ignore[attr-defined]
        if count <= 0:
            return None
        master = self._optimizer.fp32_partitioned_groups_flat[group]
        tensors = {"weight": master.detach(), **_moments(self._adamw.state[master])}
        return start, {kind: tensor.narrow(0, at, count) for kind, tensor in tensors.items()}

    def _steps(self) -> Iterator[tuple[list[Tensor], bool]]:
        """The tensors that the optimizer steps at once, and whether they are hidden matrices': parameters without ZeRO,
        with it flat fp32 partitions."""
        groups = self._adamw.param_groups
        if self._stage == 3:
            for number, master in enumerate(self._optimizer.fp32_partitioned_groups_flat):
                yield [master], groups[self._optimizer.sub_group_to_group_id[number]]["hidden"]
        else:
            yield from ((group["params"], group["hidden"]) for group in groups)

    def owned_runs(self) -> list[OwnRun]:
        """What this rank owns, and where in the tensors that the optimizer steps it is."""
        return list(self._runs(self.owned()))

    def hidden_steps(self) -> Iterator[tuple[list[Tensor], list[OwnRun]]]:
        """Of each step of hidden matrices: the tensors that are stepped, and where in them this rank's runs are."""
        runs: defaultdict[int, list[OwnRun]] = defaultdict(list)
        for run in self._runs(self.held()):
            runs[id(run.master)].append(run)
        for masters, hidden in self._steps():
            if hidden:
                yield masters, [run for master in masters for run in runs[id(master)]]

    def _runs(self, pieces: Iterable[Piece]) -> Iterator[OwnRun]:
        """Where in the tensors that the optimizer steps pieces, which are views of them, are."""
        stored: defaultdict[int, list[Tensor]] = defaultdict(list)
        for masters, _ in self._steps():
            for master in masters:
                stored[master.untyped_storage().data_ptr()].append(master)
        for piece in pieces:
            weight = piece.tensors["weight"]
            for master in stored[weight.untyped_storage().data_ptr()]:
                at = int(weight.storage_offset()) - int(master.storage_offset())
                if 0 <= at < master.numel():
                    yield OwnRun(Held(piece.name, piece.shape, piece.part, piece.start, piece.numel), master, at)

    def _states(self) -> Iterator[dict[str, Tensor]]:
        return (self._adamw.state[master] for masters, _ in self._steps() for master in masters)

    def _create_moments(self) -> None:
        """Make AdamW's state now instead of at its first step, as AdamW would make it.

        It has to exist before a checkpoint can be written into it; and DeepSpeed links its parameters to the state
        of the first group alone if the groups' states appear one after the other.
        """
        for masters, hidden in self._steps():
            for master in masters:
                state = self._adamw.state[master]
                device = master.device if self._adamw.defaults["fused"] else torch.device("cpu")
                state["step"] = torch.zeros((), dtype=torch.float32, device=device)
                for key in MOMENTS[: 1 if hidden else 2]:
                    state[key] = torch.zeros_like(master, memory_format=torch.preserve_format)
        if self._stage in (1, 2):
            self._optimizer._hp_optimizer_states_linked = False
            self._optimizer._lazy_init_hp_params_optimizer_state()


def _moments(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those that there are: of hidden matrices that Muon steps there is one."""
    return {key: state[key] for key in MOMENTS if key in state}


def _shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """Of this rank's tensor part; ZeRO-3 hides it."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))
