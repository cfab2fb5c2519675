"""All checks, in the order in which they are told, and a guard around each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from glm_launch.doctor.clock import clock_of_folder, clock_of_mlflow
from glm_launch.doctor.findings import Asked, Check, Finding
from glm_launch.doctor.folder import file_system, rename_and_fsync
from glm_launch.doctor.gpu import driver, gpus, nccl, triton_kernel
from glm_launch.doctor.limits import locked_memory, open_files, shared_memory
from glm_launch.doctor.locks import locks
from glm_launch.doctor.slurm import accounting, commands, controller
from glm_launch.doctor.software import communication_op, python, torch
from glm_launch.doctor.tracking import mlflow
from glm_launch.doctor.within import within

__all__ = ["CHECKS", "examine", "name_of"]

CHECKS: tuple[Check, ...] = (
    python,
    torch,
    gpus,
    driver,
    nccl,
    triton_kernel,
    communication_op,
    file_system,
    rename_and_fsync,
    locks,
    mlflow,
    commands,
    controller,
    accounting,
    clock_of_folder,
    clock_of_mlflow,
    open_files,
    locked_memory,
    shared_memory,
)

_PATIENCE = 120.0
"""Seconds for one check. A mount whose server is gone never answers; torch from a slow disk takes a minute."""


def examine(
    asked: Asked, checks: Sequence[Check] = CHECKS, begin: Callable[[str], object] = lambda name: None
) -> Iterator[Finding]:
    """What each check finds, as soon as it has; `begin` is told its name before.

    A check that fails itself, or does not come to an end, is a problem of its name.
    """
    for check in checks:
        begin(name_of(check))
        try:
            yield within(_PATIENCE, partial(check, asked))
        except TimeoutError:
            yield Finding(
                name_of(check), "problem", f"has not come to an end within {_PATIENCE:.0f} s",
                f"see whether `ls {asked.folder}` answers; a file system that hangs is for its administrator",
            )  # fmt: skip
        except Exception as error:
            words = " ".join(str(error).split())
            yield Finding(
                name_of(check), "problem", f"the check itself failed, {type(error).__name__}: {words}",
                "this is a mistake in glm-scale; please report it with the output of glm-scale doctor --json",
            )  # fmt: skip


def name_of(check: Check) -> str:
    """What a check is called, should it fail itself."""
    return getattr(check, "__name__", "check").replace("_", " ")
