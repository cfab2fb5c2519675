"""On which file system a path lies."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Mount", "existing", "mount_of"]

_MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class Mount:
    """`kind`: ext4, nfs4, lustre …"""

    path: str
    kind: str
    options: frozenset[str]


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def mount_of(path: Path) -> Mount:
    """Raises OSError where the kernel does not tell."""
    resolved = existing(path).resolve()
    found = Mount("/", "unknown", frozenset())
    for line in _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        # 36 35 98:0 /root /mount/point rw,noatime master:1 - ext4 /dev/sda rw,errors=continue
        before, _, behind = line.partition(" - ")
        place, options = before.split()[4:6]
        kind, _, more = (behind.split(maxsplit=2) + [""] * 3)[:3]
        place = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), place)
        # Of two mounts on one place the later one hides the earlier.
        if resolved.is_relative_to(place) and len(place) >= len(found.path):
            found = Mount(place, kind, frozenset([*options.split(","), *more.split(",")]))
    return found
