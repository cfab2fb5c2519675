"""The process group under DeepSpeed, set up without asking the user for a single environment variable.

Processes that a launcher has started (RANK, WORLD_SIZE and the rest are set) have met before (`run.rendezvous`); a
process alone becomes rank 0 of 1 on a free local port.
"""

import contextlib
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch

from glm_scale.errors import UserError
from glm_scale.processes import Place, launched
from glm_scale.training.communication_op import extensions_folder, load_communication_op

__all__ = [
    "first_start_compiles",
    "load",
    "quiet",
    "resolve_device",
    "send_library_logs_to",
    "start",
]


def resolve_device(wanted: str) -> torch.device:
    """The device a run uses: "auto" takes the GPU of this rank where there is one."""
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UserError(
            "training.device = 'cuda', but this machine shows no CUDA device; set training.device=cpu or auto"
        )
    if wanted == "cpu" or not available:
        return torch.device("cpu")
    place = launched()
    number = place.local_rank if place else 0
    if number >= (count := torch.cuda.device_count()):
        raise UserError(
            f"LOCAL_RANK is {number}, but this process sees {count} GPU{'s' * (count != 1)}: start at most one process "
            "a GPU on each machine, and let every process see all GPUs of its machine (CUDA_VISIBLE_DEVICES, "
            "srun --gpu-bind=none)"
        )
    return torch.device("cuda", number)


def load(device: torch.device) -> None:
    """Import DeepSpeed for a device, and compile what it needs there; all that `start` can do before ranks meet.

    Raises:
        UserError: the compiler that DeepSpeed needs on CPU is missing.
    """
    if torch.distributed.is_initialized():
        return
    # DeepSpeed picks its accelerator while it is imported, by this variable or by guessing.
    os.environ["DS_ACCELERATOR"] = device.type
    _find_ninja()
    if device.type == "cpu" and shutil.which("g++") is None and shutil.which(os.environ.get("CXX", "c++")) is None:
        raise UserError(
            "DeepSpeed compiles a small communication op on its first use on a CPU and finds no C++ compiler (g++); "
            "on Debian: apt-get install g++ python3-dev"
        )
    # DeepSpeed calls collectives by names that newer torch renames; nothing a user could do about it.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    with _hidden("mlflow"):  # which its autotuner imports, for a second: nothing of it is used here
        import deepspeed  # noqa: F401

    # Its optimizer is ours, and tested here.
    logging.getLogger("DeepSpeed").addFilter(_is_for_us)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        load_communication_op()


def start(
    device: torch.device,
    place: Place | None = None,
    store: torch.distributed.Store | None = None,
    timeout: timedelta | None = None,
) -> None:
    """Start DeepSpeed's process group (gloo on CPU, NCCL on GPU); does nothing if it runs already.

    place, store: of this rank, and what the ranks share, if they are several. timeout: of collectives.

    Raises:
        UserError: as `load`.
    """
    if torch.distributed.is_initialized():
        return
    if store is None:
        load(device)  # ranks that have met have done that before
    import deepspeed

    backend = "nccl" if device.type == "cuda" else "gloo"
    if place is not None and store is not None:
        torch.distributed.init_process_group(
            backend, store=store, rank=place.rank, world_size=place.size, timeout=timeout
        )
        deepspeed.init_distributed(backend, auto_mpi_discovery=False)
        return
    # DeepSpeed asks the environment for this one even where it is alone. The rest is passed as arguments: variables
    # would be inherited by child processes, which would then believe a launcher had started them. Port 0: any free one.
    os.environ["LOCAL_RANK"] = "0"
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, init_method="tcp://127.0.0.1:0", rank=0, world_size=1)


@contextlib.contextmanager
def _hidden(package: str) -> Iterator[None]:
    """As if a package that nobody has imported yet were not installed."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


def first_start_compiles(device: torch.device) -> bool:
    """Whether `start` will compile DeepSpeed's communication op (about half a minute, once in each environment)."""
    if device.type != "cpu":
        return False
    return not any(extensions_folder().glob("**/deepspeed_shm_comm*.so"))


@contextlib.contextmanager
def quiet(log: Path) -> Iterator[None]:
    """Send everything written to stdout and stderr, by this process and its children, to the file `log`.

    DeepSpeed prints, logs to stdout and runs a compiler; redirecting the descriptors catches all three.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, original in zip((1, 2), saved, strict=True):
            os.dup2(original, descriptor)
            os.close(original)


def send_library_logs_to(handler: logging.Handler) -> None:
    """Let DeepSpeed's logger write through `handler` alone instead of to stdout."""
    logger = logging.getLogger("DeepSpeed")
    for earlier in logger.handlers:
        if isinstance(earlier, logging.FileHandler):
            earlier.close()
    logger.handlers = [handler]


def _is_for_us(record: logging.LogRecord) -> bool:
    return "untested optimizer" not in record.getMessage()


def _find_ninja() -> None:
    """torch calls `ninja` by name; it lies beside the interpreter, on PATH only if the environment was activated."""
    beside = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", os.defpath)
    if beside not in path.split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([beside, path])
