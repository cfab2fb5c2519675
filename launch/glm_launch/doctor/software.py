"""Python, torch, and what compiles at run time."""

from __future__ import annotations

import os
import platform
import shutil
import sys

from glm_launch.doctor.compilers import missing_for_compiling
from glm_launch.doctor.findings import Asked, Finding, State
from glm_launch.doctor.gpu import gpus_are_usable
from glm_launch.doctor.mounts import existing

__all__ = ["OLDEST_PYTHON", "OLDEST_TORCH", "communication_op", "python", "torch"]

OLDEST_PYTHON = (3, 11)
OLDEST_TORCH = (2, 11)


def python(asked: Asked) -> Finding:
    """The version of Python."""
    says = f"{platform.python_version()}, {sys.executable}"
    if sys.version_info < OLDEST_PYTHON:
        needed = ".".join(map(str, OLDEST_PYTHON))
        return Finding("Python", "problem", f"{says} is too old", f"install with Python {needed} or newer")
    return Finding("Python", "ok", says)


def torch(asked: Asked) -> Finding:
    """The version of torch, and what it was built for."""
    try:
        import torch as library
    except (ImportError, OSError) as error:
        return Finding("torch", "problem", f"cannot be imported: {error}", "install again, by docker/install.sh")
    says = f"{library.__version__}, built for {f'CUDA {library.version.cuda}' if library.version.cuda else 'CPUs only'}"
    if tuple(int(part) for part in library.__version__.split(".")[:2]) < OLDEST_TORCH:
        return Finding("torch", "problem", f"{says} is too old", "install again, by docker/install.sh")
    return Finding("torch", "ok", says)


def communication_op(asked: Asked) -> Finding:
    """DeepSpeed's operator for several processes on CPUs, which it compiles at the first start."""
    name = "DeepSpeed's op"
    if gpus_are_usable():
        return Finding(name, "not applicable", "compiled only for training on CPUs")
    from glm_scale.training.communication_op import extensions_folder

    root = extensions_folder()
    if compiled := next(root.glob("**/deepspeed_shm_comm*.so"), None):
        return Finding(name, "ok", f"compiled: {compiled}")
    # Who only submits from here will not miss it.
    state: State = "warning" if shutil.which("sbatch") else "problem"
    if missing := missing_for_compiling("g++", "ninja"):
        return Finding(
            name, state, f"cannot be compiled, so nothing trains on CPUs here; missing: {', '.join(missing)}",
            "apt-get install -y g++ python3-dev; ninja comes with docker/install.sh",
        )  # fmt: skip
    if not os.access(existing(root), os.W_OK):
        return Finding(
            name, state, f"cannot be compiled, so nothing trains on CPUs here; no permission to write {root}",
            "set TORCH_EXTENSIONS_DIR to a folder of yours",
        )  # fmt: skip
    return Finding(name, "ok", f"will be compiled at the first start (half a minute), into {root}")
