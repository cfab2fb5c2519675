"""Processes of this machine by what stands in their environment."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """`environment` is what it was started with."""

    pid: int
    parent: int
    environment: Mapping[str, str]

    def has(self, wanted: Mapping[str, str]) -> bool:
        return all(self.environment.get(name) == value for name, value in wanted.items())


def living() -> list[Process]:
    """Those whose environment may be read, without zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        # A process may end at any time, and others' environments are closed to us.
        with contextlib.suppress(OSError):
            state, parent, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
            if state not in "ZX":
                words = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
                pairs = dict(word.split("=", 1) for word in words if "=" in word)
                found.append(Process(int(entry.name), int(parent), pairs))
    return found


def with_environment(wanted: Mapping[str, str]) -> list[Process]:
    """Those that were started with these variables."""
    return [process for process in living() if process.has(wanted)]


def with_descendants(wanted: Mapping[str, str]) -> list[Process]:
    """Those that were started with these variables, and all that they started, whatever its environment."""
    everything = living()
    found = {process.pid: process for process in everything if process.has(wanted)}
    while new := [process for process in everything if process.parent in found and process.pid not in found]:
        found |= {process.pid: process for process in new}
    return list(found.values())


def topmost(processes: Collection[Process]) -> list[Process]:
    """Those that none of the others started."""
    pids = {process.pid for process in processes}
    return [process for process in processes if process.parent not in pids]
