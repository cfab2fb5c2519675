"""What all groups of a configuration have in common."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

__all__ = ["Settings", "path_problem"]

_LONGEST_NAME, _LONGEST_PATH = 255, 4095
"""Bytes of one name and of a whole path that Linux takes."""


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


def path_problem(path: Path) -> str:
    """Why there can be no file of this path on any file system; empty if there can."""
    if "\0" in str(path):
        return "holds a NUL character, which no path may"
    longest = max((_bytes(part) for part in path.parts), default=0)
    if longest > _LONGEST_NAME or _bytes(str(path)) > _LONGEST_PATH:
        return f"is too long for a file system: {_LONGEST_NAME} bytes for each name in it, {_LONGEST_PATH} for all"
    return ""


def _bytes(text: str) -> int:
    # A byte that is no UTF-8 is one character in Python, and one byte in "?" as well.
    return len(text.encode(errors="replace"))
