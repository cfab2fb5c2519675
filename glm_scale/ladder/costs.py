"""What the runs of a ladder cost, before anything is started."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from glm_scale.errors import UserError
from glm_scale.ladder.members import Ladder, Member
from glm_scale.model import LanguageModel
from glm_scale.planning import plan_layouts
from glm_scale.planning.calibration import Calibration
from glm_scale.planning.gpus import GPU
from glm_scale.scaling.differences import SAME_PARAMETERS

__all__ = ["Cost", "Machine", "check_gpu_hours", "costs"]


@dataclass(frozen=True)
class Machine:
    """So many GPUs of a kind, and what was measured on one if that was."""

    gpu: GPU
    gpus: int = 1
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Cost:
    """Of one run, of what it does itself: a branch does not train again what it begins with.

    `parameters`: outside the embeddings. `tokens`, `flops`: trained by the run itself. `memory`: bytes of one GPU.
    `hours`: GPU hours, all GPUs together; without a calibration the least that the data sheet allows. None where no
    layout fits.
    """

    member: Member
    parameters: int
    tokens: int
    flops: float
    memory: float | None
    hours: float | None

    @property
    def off(self) -> float:
        """Relative difference of its parameters from what its size asks for, if that is too large to pass over."""
        wanted = self.member.parameters
        difference = self.parameters / wanted - 1 if wanted else 0.0
        return difference if abs(difference) > SAME_PARAMETERS else 0.0


def costs(ladder: Ladder, machine: Machine) -> Iterator[Cost]:
    """One for each run, in their order. Runs of one size share the look at their model."""
    known: dict[str, _Step] = {}
    for member in ladder.members:
        alike = _what_decides(member)
        if alike not in known:
            known[alike] = _step(member, machine)
        step, batch = known[alike], member.config.training.batch_tokens
        tokens = member.own_steps * batch
        hours = None if step.seconds is None else member.own_steps * step.seconds * machine.gpus / 3600
        yield Cost(member, step.parameters, tokens, tokens * step.flops_per_token, step.memory, hours)


def check_gpu_hours(ladder: Ladder, found: list[Cost]) -> None:
    """Raises UserError if the runs would take more than `ladder.gpu_hours`."""
    limit, hours = ladder.config.gpu_hours, sum(cost.hours or 0.0 for cost in found)
    if limit is not None and hours > limit:
        raise UserError(
            f"these runs would take {hours:,.3g} GPU hours, and ladder.gpu_hours allows {limit:,.3g}; leave out sizes, "
            "budgets or seeds, or allow more"
        )


@dataclass(frozen=True)
class _Step:
    parameters: int
    flops_per_token: float
    memory: float | None
    seconds: float | None


def _what_decides(member: Member) -> str:
    """The same for runs whose steps cost the same."""
    config = member.config
    training: dict[str, Any] = config.training.model_dump(exclude={"tokens", "seed", "optimizer", "schedule"})
    return repr((config.model, training, config.data.sequence_length, config.parallel))


def _step(member: Member, machine: Machine) -> _Step:
    config = member.config
    with torch.device("meta"):
        model = LanguageModel(config.model)
    plans = plan_layouts(config, machine.gpus, machine.gpu, machine.calibration).plans
    best = next((plan for plan in plans if plan.fits), None)
    return _Step(
        model.parameter_count(embedding=False),
        3 * model.flops_per_token(config.data.sequence_length),
        None if best is None else best.memory.total,
        None if best is None else best.seconds.total,
    )
