"""What torch's profiler has written, as work: who did what from when to when, and in which phase of a step."""

from __future__ import annotations

import gzip
import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["BACKWARD", "FORWARD", "OPTIMIZER", "Trace", "Work", "read_trace"]

FORWARD, BACKWARD, OPTIMIZER = "forward", "backward", "optimizer"
"""The phases of a step, as the engine marks them in the trace."""

BETWEEN = "between"
"""The phase of work that was started in none of them."""

_STEP = "ProfilerStep#"
_ON_GPU = {"kernel", "gpu_memcpy", "gpu_memset"}
_LAUNCHES = {"cuda_runtime", "cuda_driver"}


@dataclass(frozen=True)
class Span:
    """From `start` to `end`, in seconds since anything."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start


@dataclass(frozen=True)
class Work(Span):
    """A kernel or a copy of the GPU; without one, what an operator of the CPU does itself."""

    name: str
    phase: str


@dataclass(frozen=True)
class Trace:
    """`steps` as the host sees them; `work` of all of them, by its start; `on_gpu`: whose it is."""

    steps: list[Span]
    work: list[Work]
    on_gpu: bool


def read_trace(path: Path) -> Trace:
    """A trace as `torch.profiler` exports it to a `.json.gz`."""
    with gzip.open(path, mode="rb") as file:
        events = [event for event in json.load(file)["traceEvents"] if event.get("ph") == "X"]
    steps = [_span(e) for e in events if e.get("cat") == "user_annotation" and e["name"].startswith(_STEP)]
    phases = _Phases(events)
    work = sorted(_gpu_work(events, phases), key=lambda w: w.start)
    on_gpu = bool(work)
    if not on_gpu:
        work = sorted(_cpu_work(events, phases), key=lambda w: w.start)
    return Trace(sorted(steps, key=lambda s: s.start), work, on_gpu)


class _Phases:
    """Which phase of a step a moment of the host belongs to: they do not overlap, whatever thread is at work."""

    def __init__(self, events: Iterable[Mapping[str, Any]]) -> None:
        names = {FORWARD, BACKWARD, OPTIMIZER}
        marked = [e for e in events if e.get("cat") == "user_annotation" and e["name"] in names]
        self._spans = sorted(((_span(e), e["name"]) for e in marked), key=lambda found: found[0].start)
        self._starts = [span.start for span, _ in self._spans]

    def at(self, moment: float) -> str:
        index = bisect_right(self._starts, moment) - 1
        if index < 0:
            return BETWEEN
        span, name = self._spans[index]
        return name if moment <= span.end else BETWEEN


def _gpu_work(events: list[Mapping[str, Any]], phases: _Phases) -> Iterator[Work]:
    launched = {e["args"]["correlation"]: _seconds(e["ts"]) for e in events
                if e.get("cat") in _LAUNCHES and "correlation" in e.get("args", {})}  # fmt: skip
    for event in events:
        if event.get("cat") in _ON_GPU:
            span = _span(event)
            moment = launched.get(event.get("args", {}).get("correlation"), span.start)
            yield Work(span.start, span.end, event["name"], phases.at(moment))


def _cpu_work(events: list[Mapping[str, Any]], phases: _Phases) -> Iterator[Work]:
    """What operators do themselves, without those that they call: shown from its start on, as long as it took."""
    by_thread: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "cpu_op":
            by_thread[event["pid"], event["tid"]].append(event)
    for operators in by_thread.values():
        operators.sort(key=lambda e: (e["ts"], -e["dur"]))
        own = [event["dur"] for event in operators]
        open_ones: list[int] = []
        for index, event in enumerate(operators):
            while open_ones and operators[open_ones[-1]]["ts"] + operators[open_ones[-1]]["dur"] <= event["ts"]:
                open_ones.pop()
            if open_ones:
                own[open_ones[-1]] -= event["dur"]
            open_ones.append(index)
        for event, microseconds in zip(operators, own, strict=True):
            start = _seconds(event["ts"])
            yield Work(start, start + _seconds(max(microseconds, 0)), event["name"], phases.at(start))


def _span(event: Mapping[str, Any]) -> Span:
    start = _seconds(event["ts"])
    return Span(start, start + _seconds(event["dur"]))


def _seconds(microseconds: float) -> float:
    return float(microseconds) / 1e6
