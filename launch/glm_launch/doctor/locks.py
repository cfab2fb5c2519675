"""Whether a process that holds a file keeps a second one out, as runs and builds rely on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from glm_launch.doctor.findings import Asked, Finding
from glm_launch.doctor.folder import probe, unwritable
from glm_launch.doctor.mounts import mount_of
from glm_scale.errors import PassingError
from glm_scale.locking import FileLock

__all__ = ["locks", "try_the_lock"]

_REFUSED = 3
_SECOND_PROCESS = "import sys; from glm_launch.doctor.locks import try_the_lock; sys.exit(try_the_lock(sys.argv[1]))"
_OF_ONE_MACHINE = {"nolock", "localflock", "local_lock=flock", "local_lock=all"}
_MOUNT_IT = "have it mounted with locks (Lustre: -o flock; NFS: without nolock and local_lock), or use another folder"


def locks(asked: Asked) -> Finding:
    """Two processes take the same lock; the second has to be refused."""
    name = "locks"
    with probe(asked.folder) as place:
        if place is None:
            return unwritable(name, asked)
        mount = mount_of(place)
        with FileLock(place / "lock", "checking locks in"):
            code = subprocess.run(
                [sys.executable, "-c", _SECOND_PROCESS, str(place / "lock")],
                stdout=subprocess.DEVNULL,
                timeout=60,
            ).returncode
    if code == 0:
        return Finding(
            name, "problem", f"{mount.kind} does not keep a second process out: two trainings of one run would mix "
            "their files", _MOUNT_IT,
        )  # fmt: skip
    if code != _REFUSED:
        return Finding(name, "problem", f"the second process has failed, exit code {code}", "see its message above")
    if local := mount.options & _OF_ONE_MACHINE:
        return Finding(
            name, "warning", f"hold on this machine, but not between machines: {mount.path} is mounted with "
            f"{', '.join(sorted(local))}", _MOUNT_IT,
        )  # fmt: skip
    return Finding(name, "ok", "a second process is kept out")


def try_the_lock(path: str) -> int:
    """What the second process does; returns its exit code."""
    try:
        FileLock(Path(path), "checking locks in", patience=0.0)
    except PassingError:
        return _REFUSED
    return 0
