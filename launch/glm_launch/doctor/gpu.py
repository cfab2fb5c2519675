"""NVIDIA's GPUs: whether torch can use them, and whether Triton compiles for them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import warnings
from collections import Counter
from pathlib import Path

from glm_launch.doctor.compilers import missing_for_compiling
from glm_launch.doctor.findings import Asked, Finding

__all__ = ["driver", "gpus", "gpus_are_usable", "nccl", "oldest_driver", "triton_kernel"]

NO_GPU = "no GPU here"
ON_A_GPU_NODE = "on a GPU node run: srun --gpus=1 glm-scale doctor"

_DRIVER = Path("/proc/driver/nvidia/version")
_DEVICES = Path("/dev")


def gpus(asked: Asked) -> Finding:
    """The GPUs that torch sees."""
    import torch

    if gpus_are_usable():
        found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        kinds = Counter(f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in found)
        return Finding("GPUs", "ok", "; ".join(f"{count} × {kind}" for kind, count in kinds.items()))
    devices = sorted(_DEVICES.glob("nvidia[0-9]*"))
    if not devices:
        return Finding("GPUs", "not applicable", NO_GPU, ON_A_GPU_NODE)
    if not any(map(_may_be_opened, devices)):
        return Finding("GPUs", "not applicable", f"none of the {len(devices)} GPUs is given to this job", ON_A_GPU_NODE)
    says = f"{len(devices)} GPUs are here, but torch cannot use them"
    if torch.version.cuda is None:
        return Finding(
            "GPUs", "problem", f"{says}: it is built for CPUs only", "install a torch that is built for CUDA"
        )
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1", "NoDevFiles"):
        hidden = f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']}"
        return Finding("GPUs", "warning", f"{len(devices)} GPUs are here, hidden by {hidden}", "unset it to use them")
    return Finding("GPUs", "problem", f"{says}: {_why_not()}", "see whether nvidia-smi works, and the driver below")


def driver(asked: Asked) -> Finding:
    """The driver's version against the CUDA that torch is built for."""
    import torch

    version = _driver_version()
    if version is None:
        return Finding("driver", "not applicable", "no NVIDIA driver here")
    cuda = torch.version.cuda
    if cuda is None:
        return Finding("driver", "not applicable", f"{version}; torch is built for CPUs only")
    oldest = oldest_driver(cuda)
    if int(version.split(".")[0]) >= oldest or gpus_are_usable():
        return Finding("driver", "ok", f"{version}, for CUDA {cuda}")
    return Finding(
        "driver", "problem", f"{version} is too old for CUDA {cuda}, for which torch is built",
        f"update the driver to {oldest} or newer, or install a torch that is built for an older CUDA",
    )  # fmt: skip


def nccl(asked: Asked) -> Finding:
    """The version of NCCL that torch has."""
    import torch

    if not gpus_are_usable():
        return Finding("NCCL", "not applicable", "for GPUs only")
    if not torch.distributed.is_nccl_available():
        return Finding("NCCL", "problem", "torch is built without it", "install torch from PyPI, by docker/install.sh")
    return Finding("NCCL", "ok", ".".join(map(str, torch.cuda.nccl.version())))


def triton_kernel(asked: Asked) -> Finding:
    """Whether a Triton kernel can be compiled, and computes what it should."""
    if not gpus_are_usable():
        return _compiler_of_triton()
    from glm_launch.doctor.triton_probe import product_is_right

    try:
        right = product_is_right("cuda")
    except Exception as error:
        words = " ".join(str(error).split())[-500:]
        return Finding(
            "Triton", "problem", f"cannot compile a kernel, {type(error).__name__}: {words}",
            "it needs a C compiler, Python.h (python3-dev), and a folder to write in: set TRITON_CACHE_DIR",
        )  # fmt: skip
    if not right:
        return Finding(
            "Triton", "problem", "a kernel has computed wrong numbers",
            "install the versions of constraints.txt, by docker/install.sh; do not train on this GPU until then",
        )  # fmt: skip
    return Finding("Triton", "ok", "compiles a kernel, and its numbers are right")


def _compiler_of_triton() -> Finding:
    named = os.environ.get("CC")
    compiler = shutil.which(named) if named else shutil.which("clang") or shutil.which("gcc")
    missing = [*([] if compiler else [named or "gcc"]), *missing_for_compiling()]
    if missing:
        return Finding(
            "Triton", "warning", f"{NO_GPU}; kernels could not be compiled on one, missing: {', '.join(missing)}",
            "apt-get install -y gcc python3-dev, on the GPU nodes",
        )  # fmt: skip
    return Finding("Triton", "not applicable", f"{NO_GPU}; a C compiler and Python.h are there", ON_A_GPU_NODE)


def gpus_are_usable() -> bool:
    """Whether torch can compute on a GPU here."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # why there is none is told by `gpus`
        return torch.cuda.is_available()


def oldest_driver(cuda: str) -> int:
    """The oldest driver that runs any release of this major version of CUDA.

    https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
    """
    major = int(cuda.split(".")[0])
    return {11: 450, 12: 525, 13: 580}.get(major, 580 if major > 13 else 450)


def _driver_version() -> str | None:
    with contextlib.suppress(OSError):
        if found := re.search(r"\b(\d+\.\d+(?:\.\d+)?)\b", _DRIVER.read_text(encoding="utf-8")):
            return found[1]
    return None


def _may_be_opened(device: Path) -> bool:
    """Not by a job of SLURM that has asked for no GPU."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError:
        return False
    except OSError:
        return True
    return True


def _why_not() -> str:
    import torch

    try:
        torch.cuda.init()
    except Exception as error:
        return " ".join(str(error).split()) or type(error).__name__
    return "it finds none"
