"""What a run of the benchmark found: as a table for people, as JSON for `glm-scale bench plot` and for keeping."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from glm_kernels.bench.cases import Shape
from glm_kernels.bench.first_step import FirstStep
from glm_kernels.bench.gate import Check
from glm_kernels.bench.peers import is_attention
from glm_kernels.bench.timing import Measured
from glm_kernels.bench.work import floor_bytes, flops


@dataclass(frozen=True)
class Timing:
    """One operator or peer at one shape; ratios are to the fastest full attention in the same run, None without one."""

    operator: str
    batch: int
    length: int
    repeats: int
    forward_ms: float
    forward_spread: float
    forward_backward_ms: float
    forward_backward_spread: float
    host_ms: float
    memory: float | None
    forward_tflops: float
    forward_backward_tflops: float
    forward_gbs: float
    forward_backward_gbs: float
    forward_of_floor: float
    forward_backward_of_floor: float
    forward_speed_vs_attention: float | None
    speed_vs_attention: float | None
    packed_ratio: float | None = None
    """Forward and backward of packed documents relative to whole rows in the same run."""


def timings(measured: dict[str, Measured], shape: Shape, starts: Tensor | None, copy: float) -> list[Timing]:
    """From clock readings of one shape to lines; `copy`: the copy bandwidth in bytes a second."""
    attention = [m for name, m in measured.items() if is_attention(name)]
    best_forward = min((m.forward_ms for m in attention), default=None)
    best_both = min((m.forward_backward_ms for m in attention), default=None)
    moved, moved_both = (floor_bytes(shape, backward=backward) for backward in (False, True))
    lines = []
    for name, m in measured.items():
        work = flops(name, shape, starts if name.endswith(" packed") else None)
        gbs, gbs_both = moved / m.forward_ms / 1e6, moved_both / m.forward_backward_ms / 1e6
        whole = measured.get(name.removesuffix(" packed")) if name.endswith(" packed") else None
        packed_ratio = m.forward_backward_ms / whole.forward_backward_ms if whole else None
        lines.append(
            Timing(
                name, shape.batch, shape.length, **asdict(m),
                forward_tflops=work / m.forward_ms / 1e9,
                forward_backward_tflops=3 * work / m.forward_backward_ms / 1e9,
                forward_gbs=gbs,
                forward_backward_gbs=gbs_both,
                forward_of_floor=gbs * 1e9 / copy,
                forward_backward_of_floor=gbs_both * 1e9 / copy,
                forward_speed_vs_attention=best_forward and best_forward / m.forward_ms,
                speed_vs_attention=best_both and best_both / m.forward_backward_ms,
                packed_ratio=packed_ratio,
            )
        )  # fmt: skip
    return lines


@dataclass
class Report:
    """Everything that one run found; `as_json` is the file format."""

    machine: str
    settings: dict[str, Any]
    copy_gbs: float = 0.0
    checks: list[Check] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Peers that do not run here or at a shape, and why."""
    timings: list[Timing] = field(default_factory=list)
    first_steps: list[FirstStep] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Fields by name, of nested records too: what is written to the file."""
        return asdict(self)


def machine(device: str) -> str:
    """The device and the versions that a measurement belongs to."""
    if device == "cpu":
        return f"CPU, {torch.get_num_threads()} threads, {_versions('torch')}, Python {platform.python_version()}"
    parts = [
        torch.cuda.get_device_name(),
        _versions("torch", "triton", "flash-linear-attention"),
        f"CUDA {torch.version.cuda}",
        f"cuDNN {torch.backends.cudnn.version()}",
        f"Python {platform.python_version()}",
    ]
    return ", ".join(parts)


def _versions(*packages: str) -> str:
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


_HEADINGS = (
    f"{'':24}{'forward':>16}{'forward+backward':>19}{'TFLOP/s':>14}{'GB/s':>12}{'of copy':>11}{'vs attention':>15}\n"
    f"{'operator':24}{'ms':>10}{'±':>6}{'ms':>12}{'±':>7}{'fwd':>7}{'f+b':>7}{'fwd':>6}{'f+b':>6}"
    f"{'fwd':>6}{'f+b':>5}{'fwd':>8}{'f+b':>7}{'memory':>8}{'host':>7}"
)
LEGEND = (
    "±: half of the way from the 10th to the 90th percentile. TFLOP/s: useful multiplications. GB/s: q, k, v, y (and\n"
    "gradients) once; of copy: as a share of the copy bandwidth measured now. vs attention: speed relative to the\n"
    "fastest causal attention of this run. memory: peak beyond operands, outputs and gradients, in tensors like v.\n"
    "host: ms until the host has enqueued forward and backward."
)


def heading(shape: Shape) -> str:
    """The lines above the table of one shape."""
    return f"\n{shape}\n{_HEADINGS}"


def line(t: Timing) -> str:
    """One line of the table."""

    def ratio(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}×"

    memory = "-" if t.memory is None else f"{t.memory:.2f}"
    packed = f"  {t.packed_ratio:.3f} of whole rows" if t.packed_ratio else ""
    return (
        f"{t.operator:24}{t.forward_ms:10.3f}{t.forward_spread:6.0%}{t.forward_backward_ms:12.3f}"
        f"{t.forward_backward_spread:7.0%}{t.forward_tflops:7.3g}{t.forward_backward_tflops:7.3g}{t.forward_gbs:6.0f}"
        f"{t.forward_backward_gbs:6.0f}{t.forward_of_floor:6.0%}{t.forward_backward_of_floor:5.0%}"
        f"{ratio(t.forward_speed_vs_attention):>8}{ratio(t.speed_vs_attention):>7}{memory:>8}{t.host_ms:7.2f}{packed}"
    )


def first_step_table(steps: Iterable[FirstStep]) -> str:
    """Seconds until the first forward and backward pass is done, in new processes."""
    steps = list(steps)
    lines = [f"\nseconds until the first step is done, empty and filled cache\n{'operator':24}{'cold':>8}{'warm':>8}"]
    lines += [f"{s.operator:24}{s.cold_s:8.1f}{s.warm_s:8.2f}" for s in steps]
    lines.append(f"{'all together':24}{sum(s.cold_s for s in steps):8.1f}{sum(s.warm_s for s in steps):8.2f}")
    return "\n".join(lines)
