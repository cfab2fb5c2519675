"""One part of the table, measured from outside: a process that trains, and what it says of its steps."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml

from glm_scale.bench.parts import SIZES, Part
from glm_scale.bench.processes import last_words, running
from glm_scale.config import load_config
from glm_scale.errors import UserError
from glm_scale.tracking.metrics_log import read_metrics

__all__ = ["WARM_UP", "Measured", "Setting", "measure"]

WARM_UP = 5
"""Steps that are not counted: they compile, allocate and fill pipes."""

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Setting:
    """What all parts of a table share.

    `data`: a built data set. `steps` are measured, after WARM_UP. `layers`: instead of those of the size.
    `overrides`: of the configuration of our runs. `seconds`: no part takes longer.
    """

    size: str
    data: Path
    steps: int = 15
    layers: int | None = None
    overrides: tuple[str, ...] = ()
    seconds: float = 600.0


@dataclass(frozen=True)
class Measured:
    """`step_seconds`: of each step that counts. `first_step_seconds`: from the start of the process to its first loss.

    `peak_bytes`: torch's `max_memory_allocated`, 0 on a CPU. `losses`: of all steps, in nats a token.
    """

    part: str
    tokens_per_step: int
    step_seconds: list[float]
    first_step_seconds: float
    peak_bytes: int
    losses: list[float]
    overrides: list[str] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        """Of the median step."""
        return self.tokens_per_step / statistics.median(self.step_seconds)

    def to_json(self) -> dict[str, Any]:
        """As a file of results holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """The reverse. Raises TypeError for something else."""
        return cls(**content)


@dataclass(frozen=True)
class _Step:
    loss: float
    time: float
    peak_bytes: float


def measure(part: Part, setting: Setting) -> Measured:
    """Train for a few steps in a process of its own. Raises UserError with its last words if it fails."""
    wanted = WARM_UP + setting.steps
    with tempfile.TemporaryDirectory(prefix="glm-bench-") as folder:
        command = _plain_command(part, setting) if part.plain else _train_command(part, setting, Path(folder))
        began = time.time()
        steps: list[_Step] = []
        with running(command, Path(folder)) as process:
            while len(steps) < wanted:
                ended = process.poll() is not None
                steps = _steps(part, Path(folder))[:wanted]
                if len(steps) < wanted and (ended or time.time() - began > setting.seconds):
                    raise UserError(
                        _failure(part, Path(folder), process.returncode if ended else None, setting.seconds)
                    )
                time.sleep(_POLL_SECONDS)
    times = [step.time for step in steps]
    return Measured(
        part=str(part),
        tokens_per_step=SIZES[setting.size].sequences(part.length) * part.length,
        step_seconds=[after - before for before, after in zip(times[WARM_UP - 1 :], times[WARM_UP:], strict=False)],
        first_step_seconds=times[0] - began,
        peak_bytes=int(max(step.peak_bytes for step in steps)),
        losses=[step.loss for step in steps],
        overrides=[] if part.plain else list(setting.overrides),
    )


def _plain_command(part: Part, setting: Setting) -> list[str]:
    command = [sys.executable, "-m", "glm_scale.bench.plain", str(setting.data), "--size", setting.size]
    command += ["--length", str(part.length), "--steps", str(WARM_UP + setting.steps)]
    return [*command, "--masters"] if part.model == "plain:fp32" else command


def _train_command(part: Part, setting: Setting, folder: Path) -> list[str]:
    path = folder / "bench.yaml"
    path.write_text(yaml.safe_dump(run_config(part, setting, folder)), encoding="utf-8")
    load_config(path, list(setting.overrides))  # in this process, so that what is wrong is said at once
    return [sys.executable, "-m", "glm_scale.cli.app", "train", str(path), *setting.overrides]


def run_config(part: Part, setting: Setting, folder: Path) -> dict[str, Any]:
    """The configuration of our run: the shape and the batch of the plain transformer, and a budget of more steps than
    are measured, so that it makes no checkpoint."""
    size = SIZES[setting.size]
    sequences = size.sequences(part.length)
    return {
        "name": "bench",
        "run_root": str(folder),
        "model": {
            "vocab_size": size.vocabulary, "layers": setting.layers or size.layers, "width": size.width,
            "heads": size.heads, "mlp_width": size.hidden, "mixers": part.mixers,
        },
        "data": {"sources": [{"path": str(setting.data.absolute())}], "sequence_length": part.length},
        "training": {
            "tokens": 1000 * sequences * part.length, "batch_tokens": sequences * part.length, "micro_batch": sequences,
            "precision": "bf16", "check_memory": False,
        },
        "tracking": {"enabled": False},
    }  # fmt: skip


def _steps(part: Part, folder: Path) -> list[_Step]:
    if not part.plain:
        records = read_metrics(folder / "bench" / "metrics.jsonl", "train")
        peaks = ((r, r.number("gpu_memory_peak_gib") or 0.0) for r in records)
        return [_Step(r.number("loss") or float("nan"), r.time, peak * 2**30) for r, peak in peaks]
    lines = (folder / "out").read_bytes().split(b"\n")[:-1]
    found = [json.loads(line) for line in lines if line.startswith(b"{")]
    return [_Step(step["loss"], step["time"], step["peak_bytes"]) for step in found]


def _failure(part: Part, folder: Path, code: int | None, seconds: float) -> str:
    what = f"made too few steps within {seconds:.0f} s" if code is None else f"ended with exit code {code}"
    return last_words(f"{part} {what}", [folder / "err", folder / "out", folder / "bench" / "train.log"])
