"""What the benchmarks of models share: files of results that grow from call to call, and their tables."""

from __future__ import annotations

import contextlib
import json
import platform
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch

from glm_data.files import write_atomically
from glm_scale.errors import UserError

__all__ = ["DTYPES", "Calls", "Table", "machine", "table"]

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
"""Of a --precision."""


def machine() -> str:
    """The device and the versions that decide its speed. Leaves the device alone, which others are to have whole."""
    with contextlib.suppress(OSError, subprocess.SubprocessError, IndexError):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        name = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.splitlines()[0]
        return f"{name}, {_versions()}"
    return f"CPU {platform.machine()}, {_versions()}"


def _versions() -> str:
    return ", ".join(f"{package} {version(package)}" for package in ("torch", "triton", "deepspeed"))


class Calls:
    """What `path` holds: calls, each with what it was made under and its parts. What was measured before is kept."""

    def __init__(self, path: Path, command: str, about: dict[str, Any], check: Callable[[dict[str, Any]], object]):
        """`check` takes a part of `command`'s results and raises for something else. Raises UserError then."""
        self.path = path
        self._calls = _read(path, command, check)
        self._calls.append({**about, "parts": []})

    def add(self, part: dict[str, Any]) -> None:
        """Keep a part of this call; the file holds it when this returns."""
        self._calls[-1]["parts"].append(part)
        write_atomically(self.path, json.dumps({"calls": self._calls}, indent=1) + "\n")


class Kept(Protocol):
    """What was measured of a part."""

    def to_json(self) -> dict[str, Any]: ...


Part = TypeVar("Part", bound=Kept)


class Table(ABC, Generic[Part]):
    """The parts of one call, kept as they come, and what is printed of them."""

    headings: tuple[str, ...]

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._measured: list[Part] = []

    def add(self, measured: Part) -> None:
        """Keep a part; the file holds it when this returns."""
        self._measured.append(measured)
        self._calls.add(measured.to_json())

    def line(self) -> str:
        """What was measured last."""
        cells = self._cells(self._measured[-1])
        return "  ".join(f"{heading} {cell}" for heading, cell in zip(self.headings, cells, strict=True) if cell)

    def markdown(self) -> str:
        """All of this call."""
        return table(self.headings, map(self._cells, self._measured))

    @abstractmethod
    def _cells(self, measured: Part) -> list[str]:
        """Under the headings; empty where there is nothing to say."""


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """In Markdown."""
    headings = list(headings)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, ["---"] * len(headings), *rows))


def _read(path: Path, command: str, check: Callable[[dict[str, Any]], object]) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        calls: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["calls"]
        for call in calls:
            for part in call["parts"]:
                check(part)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} holds no results of `{command}` ({error}); name another --output") from error
    return calls
