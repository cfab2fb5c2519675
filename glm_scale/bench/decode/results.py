"""What was measured, in a file that grows from call to call and in a table."""

from __future__ import annotations

import statistics
from pathlib import Path

from glm_scale.bench.calls import Calls, Table
from glm_scale.bench.decode.cases import Case, Setting
from glm_scale.bench.decode.session import Measured

__all__ = ["Results"]


class Results(Table[Measured]):
    """Cases of one call. Shares are of the copy bandwidth measured in the case's own process, in which bytes that are
    read and bytes that are written count; a token's are those of the weights, and with the live rows of the caches."""

    headings = (
        "mixer", "batch", "context", "ms/token", "of shortest", "tokens/s", "weights/s of copy", "with caches",
        "caches", "peak", "prefill", "error", "of graph",
    )  # fmt: skip

    def __init__(self, path: Path, machine: str, setting: Setting) -> None:
        about = {"machine": machine, **setting.to_json()}
        super().__init__(Calls(path, "glm-scale bench decode", about, Measured.from_json))

    def _cells(self, measured: Measured) -> list[str]:
        case, ms = Case.parse(measured.case), statistics.median(measured.round_ms)
        peak, read = measured.bandwidth * ms / 1e3, measured.weight_bytes
        speed = measured.prefilled / measured.prefill_seconds if measured.prefilled else 0
        return [
            case.mixer, str(case.batch), f"{case.context:,}", f"{ms:.3f}", f"{ms / self._shortest(case):.3f}",
            f"{1e3 * case.batch / ms:,.0f}", f"{read / peak:.1%}", f"{(read + measured.read_bytes) / peak:.1%}",
            f"{measured.cache_bytes / 2**20:,.1f} MiB",
            f"{measured.peak_bytes / 2**30:.1f} GiB" if measured.peak_bytes else "",
            f"{speed:,.0f} tokens/s" if speed else "random caches",
            "not checked" if measured.error is None else f"{measured.error:.1e}",
            "" if measured.graph_error is None else f"{measured.graph_error:.1e}",
        ]  # fmt: skip

    def _shortest(self, case: Case) -> float:
        """Milliseconds of the same mixer and batch at the shortest context."""
        found = {}
        for measured in self._measured:
            other = Case.parse(measured.case)
            if (other.mixer, other.batch) == (case.mixer, case.batch):
                found[other.context] = statistics.median(measured.round_ms)
        return found[min(found)]
