"""What the system allows a process."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

from glm_launch.doctor.findings import Asked, Finding

__all__ = ["locked_memory", "open_files", "shared_memory"]

_INFINIBAND = Path("/sys/class/infiniband")
_SHARED_MEMORY = Path("/dev/shm")
_ENOUGH_FILES = 4096
_ENOUGH_SHARED = 2**30


def open_files(asked: Asked) -> Finding:
    """How many files a process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and soft < _ENOUGH_FILES:
        least = _ENOUGH_FILES if hard == unlimited else min(hard, 65536)
        return Finding(
            "open files", "warning", f"{soft}; many data workers and ranks may need more", f"ulimit -n {least}"
        )
    return Finding("open files", "ok", "unlimited" if soft == unlimited else str(soft))


def locked_memory(asked: Asked) -> Finding:
    """How much memory may be locked, which RDMA needs."""
    name = "locked memory"
    if not _INFINIBAND.is_dir() or not any(_INFINIBAND.iterdir()):
        return Finding(name, "not applicable", "no InfiniBand here")
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft != resource.RLIM_INFINITY:
        return Finding(
            name, "warning", f"{soft / 2**20:.0f} MiB, but NCCL registers memory with InfiniBand",
            "ulimit -l unlimited; in SLURM: LimitMEMLOCK=infinity for slurmd, PropagateResourceLimitsExcept=MEMLOCK",
        )  # fmt: skip
    return Finding(name, "ok", "unlimited")


def shared_memory(asked: Asked) -> Finding:
    """Room in /dev/shm, which data workers and NCCL need."""
    name, way_out = "/dev/shm", "in a container: docker run --ipc=host, or --shm-size=8g"
    if not _SHARED_MEMORY.is_dir():
        return Finding(name, "warning", "is not there; data workers hand over batches in it", way_out)
    if not os.access(_SHARED_MEMORY, os.W_OK):
        return Finding(name, "problem", "no permission to write in it, so no training starts", "chmod 1777 /dev/shm")
    space = shutil.disk_usage(_SHARED_MEMORY)
    says = f"{space.total / 2**30:.1f} GiB, {space.free / 2**30:.1f} free"
    if space.free < _ENOUGH_SHARED:
        return Finding(name, "warning", f"{says}; data workers and NCCL need it", way_out)
    return Finding(name, "ok", says)
