"""What a rank that hangs says of itself, and how it is written down."""

from __future__ import annotations

import json
import linecache
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "Frame",
    "Group",
    "Report",
    "hang_path",
    "parse_stacks",
    "read_report",
    "render_stack",
    "stacks_path",
    "trace_path",
]

_STACK_TITLE = re.compile(r"^(?:Current thread|Thread) 0x", re.MULTILINE)
_STACK_LINE = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE)


@dataclass(frozen=True)
class Frame:
    """A place in a stack."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"


@dataclass(frozen=True)
class Group:
    """A process group: its ranks, and how many collectives this rank has started in it (None: not known)."""

    name: str
    ranks: tuple[int, ...]
    started: int | None


@dataclass(frozen=True)
class Report:
    """How a rank stood when it was asked. `age` is in seconds; the stacks have their innermost frame last.

    `threads` has the main thread first. `heartbeat` is the last sign of life that training gave.
    """

    rank: int
    host: str
    pid: int
    heartbeat: str
    age: float
    groups: tuple[Group, ...]
    threads: dict[str, tuple[Frame, ...]]

    @property
    def stack(self) -> tuple[Frame, ...]:
        """That of the main thread."""
        return next(iter(self.threads.values()), ())

    def to_json(self) -> str:
        """As a line of JSON."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report that a line of JSON holds. Raises ValueError for any other line."""
        fields: dict[str, Any] = json.loads(text)
        groups = tuple(Group(group["name"], tuple(group["ranks"]), group["started"]) for group in fields["groups"])
        threads = {name: tuple(Frame(**frame) for frame in stack) for name, stack in fields["threads"].items()}
        return cls(**(fields | {"groups": groups, "threads": threads}))

    def __str__(self) -> str:
        """For people: everything, the main thread first."""
        lines = [
            f"rank {self.rank} on {self.host} (process {self.pid}) hangs: "
            f"its last sign of life was {self.heartbeat}, {self.age:.0f} s ago"
        ]
        for group in self.groups:
            lines.append(f"  {group.started} collectives started in {group.name} of ranks {list(group.ranks)}")
        for name, stack in self.threads.items():
            lines += [f"thread {name}:", render_stack(stack)]
        return "\n".join(lines)


def hang_path(logs: Path, rank: int) -> Path:
    """Where a rank that hangs leaves its report."""
    return logs / f"rank-{rank}.hang"


def stacks_path(logs: Path, rank: int) -> Path:
    """Where a rank that cannot even report leaves its stacks when it gets SIGQUIT."""
    return logs / f"rank-{rank}.stacks"


def trace_path(logs: Path, rank: int | str) -> Path:
    """Where NCCL's flight recorder leaves what a rank did last."""
    return logs / f"nccl_trace_rank_{rank}"


def read_report(path: Path) -> Report | None:
    """None if there is no report."""
    try:
        return Report.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def parse_stacks(text: str) -> dict[str, tuple[Frame, ...]]:
    """The stacks that `faulthandler` writes, newest thread first and innermost frame first, as a report has them."""
    threads = _STACK_TITLE.split(text)[1:]
    stacks = [
        tuple(Frame(file, int(line), function) for file, line, function in reversed(_STACK_LINE.findall(thread)))
        for thread in reversed(threads)
    ]
    return {f"Thread-{number}" if number else "MainThread": stack for number, stack in enumerate(stacks)}


def render_stack(stack: Sequence[Frame]) -> str:
    """Like a traceback, with the lines of source where they can be read."""
    lines = []
    for frame in stack:
        lines.append(f'  File "{frame.file}", line {frame.line}, in {frame.function}')
        if source := linecache.getline(frame.file, frame.line).strip():
            lines.append(f"    {source}")
    return "\n".join(lines)
