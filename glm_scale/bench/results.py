"""A file of measured parts, which grows from call to call, and the table that it makes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from glm_scale.bench.calls import Calls, Table
from glm_scale.bench.measuring import Measured
from glm_scale.bench.parts import PLAIN, SIZES, Part
from glm_scale.training.hardware import peaks

__all__ = ["Results", "Row"]


@dataclass(frozen=True)
class Row:
    """A line of the table; ratios are to `plain:bf16` of the same call and length, None where there is none."""

    measured: Measured
    speed: float | None
    memory: float | None


class Results(Table[Measured]):
    """What `path` holds: calls, each with its machine, setting and parts. What was measured before is kept."""

    headings = ("model", "T", "tokens/s", "of plain", "MFU", "peak", "of plain", "first step", "last loss")

    def __init__(self, path: Path, machine: str, size: str, data: str) -> None:
        self.machine = machine
        about = {"machine": machine, "size": size, "data": data}
        super().__init__(Calls(path, "glm-scale bench train", about, Measured.from_json))
        self._size = size

    def rows(self) -> Iterator[Row]:
        """Those of this call."""
        return map(self._row, self._measured)

    def _row(self, measured: Measured) -> Row:
        length = Part.parse(measured.part).length
        other = next((plain for plain in self._measured if Part.parse(plain.part) == Part(PLAIN[0], length)), None)
        return Row(
            measured,
            measured.tokens_per_second / other.tokens_per_second if other else None,
            measured.peak_bytes / other.peak_bytes if other and other.peak_bytes else None,
        )

    def _cells(self, measured: Measured) -> list[str]:
        part, row = Part.parse(measured.part), self._row(measured)
        speed, peak = measured.tokens_per_second, peaks(self.machine)
        flops = SIZES[self._size].plain_flops_per_token(part.length)
        return [
            " ".join([part.model, *measured.overrides]), f"{part.length:,}", f"{speed:,.0f}", _ratio(row.speed),
            # Of the plain transformer's work, which is not what the others do.
            f"{speed * flops / peak[0]:.1%}" if peak and part.plain else "",
            f"{measured.peak_bytes / 2**30:.1f} GiB" if measured.peak_bytes else "", _ratio(row.memory),
            f"{measured.first_step_seconds:.1f} s", f"{measured.losses[-1]:.3f}",
        ]  # fmt: skip


def _ratio(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.2f}"
