"""DeepSpeed's small communication op for CPUs, compiled on first use and loaded at every start.

torch guards the compilation with a file that it makes and removes. If its process is killed in between, even while it
only loads, the file stays, and every later start on the machine waits for its removal for ever.
"""

import contextlib
import hashlib
import os
import sys
from pathlib import Path

from glm_scale.locking import folder_lock

__all__ = ["extensions_folder", "load_communication_op", "remove_orphan"]

_PATIENCE = 300.0
"""Seconds; compiling takes half a minute."""


def extensions_folder() -> Path:
    """Where torch keeps what it compiles: a folder for each Python environment, unless TORCH_EXTENSIONS_DIR names one.

    torch has one for all, and compiles anew whenever an environment finds there what another one has compiled, half a
    minute each time they take turns.
    """
    if not os.environ.get("TORCH_EXTENSIONS_DIR"):
        from torch.utils import cpp_extension

        environment = hashlib.sha256(sys.prefix.encode(errors="surrogateescape")).hexdigest()[:8]
        os.environ["TORCH_EXTENSIONS_DIR"] = str(Path(cpp_extension.get_default_build_root(), f"glm-{environment}"))
    return Path(os.environ["TORCH_EXTENSIONS_DIR"])


def load_communication_op() -> None:
    """Load it, compiled if need be, one process at a time; a guard that nobody holds any more is removed."""
    import deepspeed
    from deepspeed.accelerator import get_accelerator
    from torch.utils import cpp_extension

    builder = get_accelerator().create_op_builder("ShareMemCommBuilder")
    if builder is None or not deepspeed.ops.__compatible_ops__.get(builder.NAME, False):
        return
    extensions_folder()
    folder = Path(cpp_extension._get_build_directory(builder.name, verbose=False))
    with folder_lock(folder, _PATIENCE):
        remove_orphan(folder / "lock")
        builder.load()


def remove_orphan(guard: Path) -> bool:
    """Remove a file unless a process of this machine has it open, as torch has its guard; whether it was removed."""
    if not guard.exists() or _is_open(guard):
        return False
    guard.unlink(missing_ok=True)
    return True


def _is_open(path: Path) -> bool:
    wanted = str(path.resolve())
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # the process has ended, or is another user's
            if str(descriptor.readlink()) == wanted:
                return True
    return False
