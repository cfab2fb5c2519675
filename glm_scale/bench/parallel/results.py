"""What was measured, in a file that grows from call to call and in a table."""

from __future__ import annotations

from pathlib import Path

from glm_scale.bench.calls import Calls, Table
from glm_scale.bench.parallel.cases import Setting
from glm_scale.bench.parallel.session import Measured

__all__ = ["Results"]


class Results(Table[Measured]):
    """Cases of one call. The ideal is one rank's time of the same mixer, divided by the ranks."""

    headings = (
        "mixer", "strategy", "ranks", "ms", "of ideal", "sends", "of a2a", "exchange", "hidden", "peak", "error",
    )  # fmt: skip

    def __init__(self, path: Path, machine: str, setting: Setting) -> None:
        about = {"machine": machine, **setting.to_json()}
        super().__init__(Calls(path, "glm-scale bench parallel", about, Measured.from_json))

    def _cells(self, measured: Measured) -> list[str]:
        alone = self._other(measured, 1, None)
        a2a = self._other(measured, measured.ranks, "a2a")
        sent, exchange, exposed = sum(measured.sent.values()), measured.exchange, measured.exposed
        ideal = alone.pass_seconds / measured.ranks / measured.pass_seconds if alone else None
        return [
            measured.mixer, measured.strategy or "", str(measured.ranks), f"{1e3 * measured.pass_seconds:.2f}",
            "" if ideal is None else f"{ideal:.3f}", f"{sent / 1e6:.4g} MB" if sent else "",
            f"{sent / sum(a2a.sent.values()):.4f}" if a2a and sent else "",
            "" if exchange is None else f"{1e3 * exchange:.2f} ms",
            f"{1 - exposed / exchange:.0%}" if exchange and exposed is not None else "",
            f"{measured.peak_bytes / 2**30:.1f} GiB" if measured.peak_bytes else "", f"{measured.error:.1e}",
        ]  # fmt: skip

    def _other(self, measured: Measured, ranks: int, strategy: str | None) -> Measured | None:
        same = (other for other in self._measured if other.mixer == measured.mixer)
        return next((other for other in same if (other.ranks, other.strategy) == (ranks, strategy)), None)
