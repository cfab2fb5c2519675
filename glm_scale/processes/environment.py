"""What a launcher (torchrun, srun with variables, ours) tells a process about its place among the others."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from glm_scale.errors import UserError

__all__ = ["NEIGHBOURS", "VARIABLES", "Place", "launched", "neighbours"]

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What launchers set."""

NEIGHBOURS = "GLM_SCALE_NEIGHBOURS"
"""How many other runs may be on this one's GPUs, or on this machine if it has none, at the same time."""

_WAY_OUT = f"a launcher sets {', '.join(VARIABLES)}; to start without one: unset RANK WORLD_SIZE"

# Of programs that start several processes without these variables: how many they are.
_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


@dataclass(frozen=True)
class Place:
    """A process among `size`: its number, its number on its machine, and where rank 0 is met.

    `address` and `port` are empty and 0 for a process that is alone, which has nobody to meet.
    """

    rank: int
    size: int
    local_rank: int
    address: str = ""
    port: int = 0


def launched(environment: Mapping[str, str] = os.environ) -> Place | None:
    """The place that a launcher has given to this process; None if there is no launcher.

    Raises UserError, which names the variable, if the variables do not make sense together.
    """
    if "RANK" not in environment and "WORLD_SIZE" not in environment:
        _refuse_unnumbered(environment)
        return None
    size = _number(environment, "WORLD_SIZE", 1, None)
    rank = _number(environment, "RANK", 0, size - 1)
    local_rank = _number({"LOCAL_RANK": "0", **environment} if size == 1 else environment, "LOCAL_RANK", 0, None)
    if size == 1:
        return Place(rank, size, local_rank)
    if not environment.get("MASTER_ADDR", "").strip():
        raise UserError(
            f"MASTER_ADDR {_given(environment, 'MASTER_ADDR')}, but WORLD_SIZE={size}: set it to the machine of rank 0 "
            f"({_WAY_OUT})"
        )
    port = _number(environment, "MASTER_PORT", 1, 65535)
    return Place(rank, size, local_rank, environment["MASTER_ADDR"].strip(), port)


def neighbours(environment: Mapping[str, str] = os.environ) -> int:
    """How many other runs whoever started this process lets share its GPUs, or its machine on CPUs."""
    told = environment.get(NEIGHBOURS, "0")
    return int(told) if told.isascii() and told.isdecimal() else 0


def _number(environment: Mapping[str, str], name: str, least: int, most: int | None) -> int:
    text = environment.get(name, "").strip()
    wanted = f"from {least} to {most}" if most is not None else f"of at least {least}"
    if not (text.isascii() and text.isdecimal()) or int(text) < least or (most is not None and int(text) > most):
        raise UserError(f"{name} {_given(environment, name)}, but has to be a number {wanted} ({_WAY_OUT})")
    return int(text)


def _given(environment: Mapping[str, str], name: str) -> str:
    if name not in environment:
        return "is not set"
    return f"is {environment[name]!r}" if environment[name] else "is empty"


def _refuse_unnumbered(environment: Mapping[str, str]) -> None:
    """Several processes that do not know of one another would all train the same run."""
    for name in _COUNTS:
        count = environment.get(name, "")
        if count.isdecimal() and int(count) > 1:
            raise UserError(
                f"this is one of {count} processes ({name}={count}), but RANK and WORLD_SIZE are not set, so that each "
                "would train the run alone: start one process (srun --ntasks=1), which starts the others of its "
                "machine itself, or use glm-scale submit, torchrun, or a script that sets the variables"
            )
