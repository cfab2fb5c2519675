"""How models are trained and asked, the same for all tasks and structures of a table."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from glm_data.settings import Settings
from glm_scale.training.config import OptimizerConfig, ScheduleConfig

__all__ = ["TIMES", "Setting"]

TIMES = (1, 2, 4)
"""Lengths at which models are asked, in multiples of the one that they are trained at."""

_WARM_UP = 100


class Setting(Settings):
    """`seeds` × `rates` models of each structure, trained for `steps` on `batch` fresh sequences each.

    Models of equal seed begin with the same weights and see the same sequences. `sequences`: fresh ones that all models
    are asked, at each length. `conv`, `mlp`: see `build_model`.
    """

    seeds: Annotated[int, Field(ge=1)] = 3
    rates: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)] = (3e-4, 1e-3, 3e-3)
    steps: Annotated[int, Field(ge=1)] = 5000
    batch: Annotated[int, Field(ge=1)] = 128
    sequences: Annotated[int, Field(ge=1)] = 4096
    conv: bool = False
    mlp: bool = True

    @field_validator("rates")
    @classmethod
    def _each_once(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(set(rates)))

    @property
    def members(self) -> list[tuple[int, float]]:
        """Seed and learning rate of every model, seed by seed."""
        return [(seed, rate) for seed in range(self.seeds) for rate in self.rates]

    @property
    def optimizer(self) -> OptimizerConfig:
        """As runs have it by default; the rates are those of `members`."""
        return OptimizerConfig()

    @property
    def schedule(self) -> ScheduleConfig:
        """Counted in steps: a warm-up of 100, or of a quarter of a short training, then a cosine to zero."""
        return ScheduleConfig(warmup_tokens=min(_WARM_UP, self.steps // 4), final_fraction=0.0)
