"""Weights and Adam moments by parameter name, whatever ZeRO stage holds them.

A checkpoint speaks of logical parameters: the fp32 master weight, `exp_avg` and `exp_avg_sq` of each, in the
parameter's own shape. DeepSpeed keeps them as pieces of flat buffers that differ from stage to stage. This module alone
knows both sides; it leans on private attributes of DeepSpeed, which is why the package pins DeepSpeed's minor version
and tests every stage.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from glm_scale.parallel.axis import TensorAxis
from glm_scale.parallel.tensor import gathered, own_part, whole_shape

__all__ = ["MOMENTS", "LogicalState"]

MOMENTS = ("exp_avg", "exp_avg_sq")


class LogicalState:
    """Reads and writes the training state of a DeepSpeed engine one logical parameter at a time.

    With several ranks `read` and `publish` are collective: every rank calls them for the same names in the same order.
    """

    def __init__(self, engine: Any, tensor: TensorAxis | None = None) -> None:
        self._tensor = tensor
        self._stage = int(engine.zero_optimization_stage())
        self._optimizer = engine.optimizer
        self._adamw = engine.optimizer if self._stage == 0 else engine.optimizer.optimizer
        self._parameters: dict[str, nn.Parameter] = {
            name: parameter for name, parameter in engine.module.named_parameters() if parameter.requires_grad
        }
        self._create_moments()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter, in the model's order; of the whole one if tensor ranks have parts of it."""
        return {
            name: whole_shape(tuple(getattr(p, "ds_shape", p.shape)), p, self._tensor)
            for name, p in self._parameters.items()
        }

    def read(self, name: str) -> dict[str, Tensor]:
        """Copies on the CPU, fp32: "weight", "exp_avg" and "exp_avg_sq" of one parameter."""
        parameter = self._parameters[name]
        weight, moments = self._full(parameter)
        tensors = {"weight": weight, **moments}
        return {key: _on_cpu(gathered(value, parameter, self._tensor)) for key, value in tensors.items()}

    def write(self, name: str, state: dict[str, Tensor]) -> None:
        """The reverse of `read`. The compute weights follow at the next `publish`."""
        parameter = self._parameters[name]
        state = {key: own_part(value, parameter, self._tensor) for key, value in state.items()}
        if self._stage == 0:
            with torch.no_grad():
                parameter.copy_(state["weight"])
                for key in MOMENTS:
                    self._optimizer.state[parameter][key].copy_(state[key])
            return
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        device = parameter.device
        safe_set_full_fp32_param(parameter, state["weight"].to(device))
        for key in MOMENTS:
            safe_set_full_optimizer_state(parameter, state[key].to(device), key)

    @property
    def applied_steps(self) -> int:
        """Optimizer steps behind the moments (Adam's bias correction); skipped steps do not count."""
        return int(next(self._states())["step"])

    @applied_steps.setter
    def applied_steps(self, steps: int) -> None:
        for state in self._states():
            state["step"].fill_(steps)

    def publish(self) -> None:
        """Copy the master weights to the weights that the forward pass uses."""
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

    def _full(self, parameter: nn.Parameter) -> tuple[Tensor, dict[str, Tensor]]:
        if self._stage == 0:
            state = self._optimizer.state[parameter]
            return parameter.detach(), {key: state[key] for key in MOMENTS}
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        moments = {key: safe_get_full_optimizer_state(parameter, key) for key in MOMENTS}
        return safe_get_full_fp32_param(parameter), moments

    def _masters(self) -> list[Tensor]:
        """The tensors that torch's AdamW steps: parameters without ZeRO, flat fp32 partitions with it."""
        if self._stage == 3:
            return list(self._optimizer.fp32_partitioned_groups_flat)
        return [master for group in self._adamw.param_groups for master in group["params"]]

    def _states(self) -> Iterator[dict[str, Tensor]]:
        return (self._adamw.state[master] for master in self._masters())

    def _create_moments(self) -> None:
        """Make AdamW's state now instead of at its first step, as AdamW would make it.

        It has to exist before a checkpoint can be written into it; and DeepSpeed links its parameters to the state
        of the first group alone if the groups' states appear one after the other.
        """
        for master, state in zip(self._masters(), self._states(), strict=True):
            if not state:
                device = master.device if self._adamw.defaults["fused"] else torch.device("cpu")
                state["step"] = torch.zeros((), dtype=torch.float32, device=device)
                state.update({key: torch.zeros_like(master, memory_format=torch.preserve_format) for key in MOMENTS})
        if self._stage in (1, 2):
            self._optimizer._hp_optimizer_states_linked = False
            self._optimizer._lazy_init_hp_params_optimizer_state()


def _on_cpu(value: Tensor) -> Tensor:
    return value.detach().to("cpu", torch.float32, copy=True).contiguous()
