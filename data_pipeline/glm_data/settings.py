"""What all groups of a configuration have in common."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from glm_data.paths import path_problem

__all__ = ["Settings"]


class Settings(BaseModel):
    """A group of settings. Unknown keys are errors, and values are such as a machine can work with: no infinity, no
    NaN, no integer of more than 64 bits, no path that cannot exist.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _can_exist(cls, value: Any) -> Any:
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError("must fit into 64 bits")
        if isinstance(value, Path) and (problem := path_problem(value)):
            raise ValueError(problem)
        return value
