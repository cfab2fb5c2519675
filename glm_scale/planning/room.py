"""How much memory is left for a run, and who says so: the machine, a cgroup, a limit of the shell, a GPU.

Linux tells in files; one that is not there, or says nothing that can be understood, limits nothing.
"""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Room", "gpu_rooms", "host_rooms", "process_rooms"]


@dataclass(frozen=True)
class Room:
    """Bytes that are free without swapping, and what could be swapped out besides. `source`: who says so."""

    free: int
    source: str
    swap: int = 0


def host_rooms(root: Path = Path("/")) -> list[Room]:
    """For all processes of this machine together: the machine itself, and every cgroup that this process is in."""
    meminfo = _table(root / "proc/meminfo", 1024)
    swap = meminfo.get("SwapFree", 0)
    rooms = []
    if "MemAvailable" in meminfo:
        total = meminfo.get("MemTotal", 0)
        rooms.append(Room(meminfo["MemAvailable"], f"of the {total / 1e9:.1f} GB of this machine", swap))
    return [*rooms, *_groups(root, swap)]


def process_rooms() -> Iterator[Room]:
    """For each process by itself: `ulimit -v` and `ulimit -d`."""
    for kind, option in ((resource.RLIMIT_AS, "-v"), (resource.RLIMIT_DATA, "-d")):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            yield Room(soft, f"of each process (ulimit {option} {soft // 1024})")


def gpu_rooms(count: int) -> list[Room]:
    """Of the first GPUs that this process sees, in their order; empty if nvidia-smi does not tell.

    Asked from outside, as a look through CUDA would keep some of each GPU's memory.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    asked = ["nvidia-smi", "--query-gpu=name,memory.free,memory.total", "--format=csv,noheader,nounits"]
    rooms: list[Room] = []
    # One by one: nvidia-smi would sort them.
    for device in [None] if visible is None else visible.split(",")[:count]:
        command = asked if device is None else [*asked, f"--id={device.strip()}"]
        try:
            told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
            for number, line in enumerate(told.splitlines()):
                name, free, total = (field.strip() for field in line.rsplit(",", 2))
                index = number if device is None else len(rooms)
                source = f"of the {int(total) * 2**20 / 1e9:.1f} GB of GPU {index} ({name})"
                rooms.append(Room(int(free) * 2**20, source))
        except (OSError, subprocess.SubprocessError, ValueError):
            return []
    return rooms[:count]


def _groups(root: Path, swap: int) -> Iterator[Room]:
    """Of both versions of cgroups. A group is held to its own limit and to those of all groups around it."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mounted, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            mounted = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = mounted / path.strip("/")
        # Inside of a container the path may be that outside of it: what is there then is the mount's own root.
        for folder in (group, *group.parents):
            if not folder.is_relative_to(mounted):
                break
            if (room := _room_of(folder, *names, swap)) is not None:
                yield room


def _room_of(folder: Path, limit_name: str, usage_name: str, reclaimed: str, swap: int) -> Room | None:
    limit, usage = _number(folder / limit_name), _number(folder / usage_name)
    # Version 1 has no word for "no limit", only a number that no machine has.
    if limit is None or usage is None or limit >= 2**60:
        return None
    # Files that the kernel keeps because nobody needs the memory count as used; it gives them up first.
    cached = _table(folder / "memory.stat").get(reclaimed, 0)
    allowed = _number(folder / "memory.swap.max")
    return Room(
        max(0, limit - max(0, usage - cached)),
        f"of the {limit / 1e9:.1f} GB of a cgroup ({folder / limit_name})",
        swap if allowed is None else min(swap, allowed),
    )


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _table(path: Path, unit: int = 1) -> dict[str, int]:
    """Lines of a name and a number, in units of so many bytes."""
    words = (line.replace(":", " ").split() for line in _text(path).splitlines())
    return {found[0]: int(found[1]) * unit for found in words if len(found) > 1 and found[1].isdecimal()}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
