"""Whether SLURM is here and answers."""

from __future__ import annotations

import shutil

from glm_launch.doctor.findings import Asked, Finding, State
from glm_launch.slurm import run_slurm
from glm_scale.errors import UserError

__all__ = ["accounting", "commands", "controller"]

_NEEDED = ("sbatch", "srun", "scontrol", "squeue", "scancel")
_NO_SLURM = "no SLURM here"


def commands(asked: Asked) -> Finding:
    """SLURM's commands on PATH."""
    name = "SLURM"
    found = [command for command in _NEEDED if shutil.which(command)]
    if not found:
        return Finding(name, "not applicable", _NO_SLURM, "glm-scale submit --local N trains on this machine")
    if missing := sorted({*_NEEDED} - {*found}):
        return Finding(
            name, "problem", f"{', '.join(missing)} not on PATH",
            "load SLURM's module, or install slurm-client; in a container mount them from the host",
        )  # fmt: skip
    return Finding(name, "ok", str(shutil.which("sbatch")))


def controller(asked: Asked) -> Finding:
    """Whether SLURM's controller answers."""
    name = "SLURM's controller"
    if shutil.which("scontrol") is None:
        return Finding(name, "not applicable", _NO_SLURM)
    try:
        answer = " ".join(run_slurm("scontrol", "ping", patience=asked.patience).split())
    except UserError as error:
        answer = " ".join(str(error).split())
    if " is UP" not in answer:
        return Finding(
            name, "problem", answer or "scontrol ping says nothing",
            "on a login node this is for the cluster's administrators; elsewhere see SLURM_CONF and munge",
        )  # fmt: skip
    return Finding(name, "ok", answer)


def accounting(asked: Asked) -> Finding:
    """Whether SLURM keeps accounts, which tell of jobs that are over."""
    name = "SLURM's accounting"
    if shutil.which("scontrol") is None:
        return Finding(name, "not applicable", _NO_SLURM)
    without = "glm-scale status works without it"
    if shutil.which("sacct") is None:
        return Finding(name, "not applicable", f"sacct is not here; {without}")
    try:
        run_slurm("sacct", "--noheader", "--parsable2", "--allocations", "--starttime=now", patience=asked.patience)
    except UserError as error:
        words = " ".join(str(error).split())
        state: State = "not applicable" if "disabled" in words else "warning"
        return Finding(name, state, f"{words}; {without}")
    return Finding(name, "ok", "sacct answers")
