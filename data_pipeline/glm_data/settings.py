"""What all groups of a configuration have in common."""

from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from glm_data.paths import path_problem

__all__ = ["OnResume", "Settings"]


class OnResume(Enum):
    """What another value of a setting means for a run that goes on: stands in the annotation of its field.

    That of a group holds for all its fields that say nothing else; a field without any is `FIXED`.
    """

    FIXED = "makes it another run"
    ROUNDING = "changes no more than the order of floating-point sums"
    FREE = "changes no number"


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
