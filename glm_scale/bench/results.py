"""A file of measured parts, which grows from call to call, and the table that it makes."""

from __future__ import annotations

import contextlib
import json
import math
import platform
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from glm_data.files import write_atomically
from glm_scale.bench.measuring import Measured
from glm_scale.bench.parts import PLAIN, SIZES, Part
from glm_scale.errors import UserError
from glm_scale.training.hardware import peaks

__all__ = ["Results", "Row", "machine"]

_HEADINGS = ("model", "T", "tokens/s", "of plain", "MFU", "peak", "of plain", "first step", "last loss")


def machine() -> str:
    """The device and the versions that decide its speed. Leaves the device alone, which others are to have whole."""
    with contextlib.suppress(OSError, subprocess.SubprocessError, IndexError):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        name = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.splitlines()[0]
        return f"{name}, {_versions()}"
    return f"CPU {platform.machine()}, {_versions()}"


def _versions() -> str:
    return ", ".join(f"{package} {version(package)}" for package in ("torch", "triton", "deepspeed"))


@dataclass(frozen=True)
class Row:
    """A line of the table; ratios are to `plain:bf16` of the same call and length, None where there is none."""

    measured: Measured
    speed: float | None
    memory: float | None


class Results:
    """What `path` holds: calls, each with its machine, setting and parts. What was measured before is kept."""

    def __init__(self, path: Path, machine: str, size: str, data: str) -> None:
        self.path = path
        self.machine = machine
        self._calls: list[dict[str, Any]] = _read(path)
        self._size = size
        self._measured: list[Measured] = []
        self._calls.append({"machine": machine, "size": size, "data": data, "parts": []})

    def add(self, measured: Measured) -> None:
        """Keep a part; the file holds it when this returns."""
        self._measured.append(measured)
        self._calls[-1]["parts"].append(measured.to_json())
        write_atomically(self.path, json.dumps({"calls": self._calls}, indent=1) + "\n")

    def rows(self) -> Iterator[Row]:
        """Those of this call."""
        parts = [(Part.parse(measured.part), measured) for measured in self._measured]
        plain = {part.length: measured for part, measured in parts if part.model == PLAIN[0]}
        for part, measured in parts:
            other = plain.get(part.length)
            yield Row(
                measured,
                measured.tokens_per_second / other.tokens_per_second if other else None,
                measured.peak_bytes / other.peak_bytes if other and other.peak_bytes else None,
            )

    def line(self) -> str:
        """What was measured last."""
        cells = self._cells(list(self.rows())[-1])
        return "  ".join(f"{heading} {cell}" for heading, cell in zip(_HEADINGS, cells, strict=True) if cell)

    def markdown(self) -> str:
        """The table of this call."""
        return "\n".join(
            [_line(_HEADINGS), _line("---" for _ in _HEADINGS), *(_line(self._cells(r)) for r in self.rows())]
        )

    def _cells(self, row: Row) -> list[str]:
        part, measured = Part.parse(row.measured.part), row.measured
        speed, peak = measured.tokens_per_second, peaks(self.machine)
        flops = SIZES[self._size].plain_flops_per_token(part.length)
        return [
            " ".join([part.model, *measured.overrides]), f"{part.length:,}", f"{speed:,.0f}", _ratio(row.speed),
            # Of the plain transformer's work, which is not what the others do.
            f"{speed * flops / peak[0]:.1%}" if peak and part.plain else "",
            f"{measured.peak_bytes / 2**30:.1f} GiB" if measured.peak_bytes else "", _ratio(row.memory),
            f"{measured.first_step_seconds:.1f} s", f"{measured.losses[-1]:.3f}",
        ]  # fmt: skip


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ratio(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.2f}"


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        calls = json.loads(path.read_text(encoding="utf-8"))["calls"]
        for call in calls:
            for part in call["parts"]:
                Measured.from_json(part)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} holds no results of `glm-scale bench train` ({error}); name another --output"
        ) from error
    return calls
