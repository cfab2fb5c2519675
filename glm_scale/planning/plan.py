"""All layouts of a run over a number of GPUs, best first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from glm_scale.config.layout import layout_problems
from glm_scale.config.run import RunConfig
from glm_scale.layers.activation_checkpointing import policies_from
from glm_scale.parallel.mesh import Layout
from glm_scale.planning.activations import Activations
from glm_scale.planning.calibration import Calibration
from glm_scale.planning.estimate import Estimate, Memory, Seconds
from glm_scale.planning.exchanges import Exchange
from glm_scale.planning.gpus import GPU
from glm_scale.planning.parts import Part

__all__ = ["Plan", "Planning", "layouts_over", "plan_layouts"]

USABLE = 0.9
"""Of a GPU's memory; the rest is CUDA's and NCCL's, and gaps between allocations."""


@dataclass(frozen=True)
class Plan:
    """A layout, and settings under which it fits; those of the configuration if it fits under them or under none.

    `changed`: settings that differ from the configuration's, as overrides.
    """

    layout: Layout
    changed: tuple[str, ...]
    estimate: Estimate
    gpu: GPU
    calibration: Calibration | None = None

    @cached_property
    def memory(self) -> Memory:
        """Bytes of the rank that needs most, by what they are for."""
        return self.estimate.memory

    @property
    def fits(self) -> bool:
        """Whether that is in the GPU's memory."""
        return self.memory.total <= USABLE * self.gpu.memory

    @cached_property
    def exchanges(self) -> list[Exchange]:
        """Bytes that the rank which sends the most sends in one optimizer step."""
        return self.estimate.exchanges()

    @cached_property
    def seconds(self) -> Seconds:
        """Of one optimizer step, by what they are for; a lower bound unless they are `calibrated`."""
        return self.estimate.seconds(self.gpu, self.calibration)

    def mfu(self, seconds: float) -> float:
        """Model FLOPs utilisation, if a step takes so long."""
        return self._seconds_at_peak / seconds

    def seconds_at(self, mfu: float) -> float:
        """Of a step at this utilisation, or at the best that is possible."""
        return max(self.seconds.total, self._seconds_at_peak / mfu)

    @property
    def _seconds_at_peak(self) -> float:
        return self.estimate.model_flops / self.gpu.peak_flops(self.estimate.config.training.precision)

    @property
    def sent_per_token(self) -> float:
        """Bytes that such a rank sends for each token that it works on."""
        tokens = self.tokens_per_step / (self.layout.data * self.layout.sequence)
        return sum(exchange.sent for exchange in self.exchanges) / tokens

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step, on all ranks together."""
        return self.estimate.config.training.batch_tokens

    @property
    def strategies(self) -> dict[str, str]:
        """By mixer, of each of its stages; empty on one sequence rank."""
        return {name: " > ".join(block.strategies) for name, block in self.estimate.spread.items()}


@dataclass(frozen=True)
class Impossible:
    """A layout that a run cannot have, and why."""

    layout: Layout
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Planning:
    """Layouts that fit, by the time of a step, then those that do not, by their memory; and those that cannot be."""

    plans: Sequence[Plan]
    impossible: Sequence[Impossible]

    @property
    def calibrated(self) -> bool:
        """Whether times are predictions, and no lower bounds."""
        return any(plan.seconds.calibrated for plan in self.plans)


def layouts_over(gpus: int) -> Iterator[Layout]:
    """Every way to write their number as data × sequence × tensor."""
    for tensor in _divisors(gpus):
        for sequence in _divisors(gpus // tensor):
            yield Layout(tensor, sequence, gpus // tensor // sequence)


def plan_layouts(config: RunConfig, gpus: int, gpu: GPU, calibration: Calibration | None = None) -> Planning:
    """The layouts of a run over so many GPUs, whatever `config.parallel` says about their numbers.

    calibration: of that kind of GPU; without one times are lower bounds by its data sheet.
    """
    plans: list[Plan] = []
    impossible: list[Impossible] = []
    measured: dict[int, Activations] = {}
    for layout in layouts_over(gpus):
        laid_out = _laid_out(config, layout)
        reasons = tuple(f"{problem.path} {problem.message}" for problem in layout_problems(laid_out, layout))
        if reasons:
            impossible.append(Impossible(layout, reasons))
            continue
        if layout.tensor not in measured:
            measured[layout.tensor] = activations_of(laid_out, layout)
        plans.append(_plan(laid_out, layout, measured[layout.tensor], gpu, calibration))
    plans.sort(key=lambda plan: (not plan.fits, plan.seconds.total if plan.fits else plan.memory.total))
    return Planning(plans, impossible)


def activations_of(config: RunConfig, layout: Layout, device: str = "cuda") -> Activations:
    """Of all tokens of a micro-batch on a tensor rank."""
    dtype = torch.bfloat16 if config.training.precision == "bf16" else torch.float32
    return Activations(
        Part(config.model, layout.tensor), config.training.micro_batch, config.data.sequence_length, dtype,
        config.parallel.shard_activations and layout.tensor > 1, device,
        config.training.compiles(device),
    )  # fmt: skip


def _laid_out(config: RunConfig, layout: Layout) -> RunConfig:
    """One tensor rank has nothing to share tokens with."""
    shards = config.parallel.shard_activations and layout.tensor > 1
    return _with(config, "parallel", tensor=layout.tensor, sequence=layout.sequence, shard_activations=shards)


def _plan(
    config: RunConfig, layout: Layout, activations: Activations, gpu: GPU, calibration: Calibration | None
) -> Plan:
    """As configured; if that does not fit, with the settings that need less and cost the least time."""
    training = config.training
    plans = []
    for stage in range(training.zero_stage, 4):
        for policy in policies_from(training.activation_checkpointing):
            changed = []
            if stage != training.zero_stage:
                changed.append(f"training.zero_stage={stage}")
            if policy != training.activation_checkpointing:
                changed.append(f"training.activation_checkpointing={policy}")
            settings = _with(config, "training", zero_stage=stage, activation_checkpointing=policy)
            plans.append(Plan(layout, tuple(changed), Estimate(settings, layout, activations), gpu, calibration))
            if plans[0].fits:
                return plans[0]
    fitting = [plan for plan in plans if plan.fits]
    return min(fitting, key=lambda plan: plan.seconds.total) if fitting else plans[0]


def _with(config: RunConfig, group: str, **values: Any) -> RunConfig:
    return config.model_copy(update={group: getattr(config, group).model_copy(update=values)})


def _divisors(number: int) -> list[int]:
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]
