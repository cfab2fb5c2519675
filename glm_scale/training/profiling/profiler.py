"""Looks at a few steps of a run closely, once it has found its pace."""

from __future__ import annotations

import logging
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from glm_scale.training.profiling.report import describe
from glm_scale.training.profiling.trace import read_trace

__all__ = ["StepProfiler"]

_SKIPPED, _LOOKED_AT = 8, 3
"""Steps before those that are looked at, the last of which starts the profiler, and these."""

_LARGEST_SNAPSHOT = 200_000

_logger = logging.getLogger(__name__)


class StepProfiler:
    """Traces steps while active, and writes into `folder` what it has seen:

        report.md         one page               trace.json.gz    every kernel and operator
        memory.pickle     allocations, on GPUs

    It costs time: speeds of these steps are not those of others.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._folder = folder
        self._gpu = device.type == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._gpu else [])]
        plan = schedule(skip_first=0, wait=_SKIPPED - 1, warmup=1, active=_LOOKED_AT, repeat=1)
        self._profile = profile(activities=activities, schedule=plan, on_trace_ready=self._write)
        self._steps = 0
        self._told: str | None = None
        self._written = False

    def __enter__(self) -> Self:
        self._profile.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A run that ends meanwhile has no whole steps to show.
        self._profile.on_trace_ready = None
        self._profile.__exit__(kind, error, trace)

    def step(self) -> str | None:
        """A step has ended. What the user should know, if anything."""
        self._steps += 1
        if self._gpu and self._steps == _SKIPPED:
            torch.cuda.memory._record_memory_history(max_entries=_LARGEST_SNAPSHOT)
        self._profile.step()
        told, self._told = self._told, None
        return told

    def missing(self) -> str | None:
        """Why there is no report, if there is none."""
        if self._written:
            return None
        return f"no profile: it needs {_SKIPPED + _LOOKED_AT} steps, and there were {self._steps}"

    def _write(self, seen: Any) -> None:
        self._written = True
        try:
            self._folder.mkdir(exist_ok=True)
            if self._gpu:
                torch.cuda.memory._dump_snapshot(str(self._folder / "memory.pickle"))
                torch.cuda.memory._record_memory_history(enabled=None)
            path = self._folder / "trace.json.gz"
            seen.export_chrome_trace(str(path))
            report = self._folder / "report.md"
            report.write_text(describe(read_trace(path)), encoding="utf-8")
            self._told = f"looked at {_LOOKED_AT} steps: {report}"
        except (OSError, ValueError, RuntimeError) as error:
            _logger.exception("the profile could not be written")
            self._told = f"no profile: {error}"
