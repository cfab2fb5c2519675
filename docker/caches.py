"""Where compilers keep what they make, in the image: a folder of /tmp that belongs to the user who runs it.

Every Python of the image imports this at its start, however it was started: the entry point of an image is not taken by
`apptainer exec` or srun. By default Triton and torch compile into the home, which may be missing or closed to writing.
The name holds the user's number, because on a cluster /tmp is often the node's own, and what one user compiled must
never be run by another.
"""

import os
import stat
import tempfile

_VARIABLES = {
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TORCH_EXTENSIONS_DIR": "torch_extensions",
    "MPLCONFIGDIR": "matplotlib",
}


def set_caches() -> None:
    """Name the caches to the libraries by their environment variables; those that are set already stay."""
    if all(name in os.environ for name in _VARIABLES):
        return
    folder = _own_folder()
    for name, cache in _VARIABLES.items():
        os.environ.setdefault(name, os.path.join(folder, cache))  # noqa: PTH118 - every start of Python pays for pathlib


def _own_folder() -> str:
    folder = os.path.join(tempfile.gettempdir(), f"glm-scale-{os.getuid()}")  # noqa: PTH118
    try:
        os.mkdir(folder, 0o700)  # noqa: PTH102
    except FileExistsError:
        found = os.lstat(folder)
        # Anybody can make a folder of this name in /tmp, and put libraries into it.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            return tempfile.mkdtemp(prefix="glm-scale-")
    return folder


set_caches()
