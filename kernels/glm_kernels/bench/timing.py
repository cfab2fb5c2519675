"""The clock: milliseconds forward and forward+backward, peak memory, copy bandwidth, seconds under sustained load."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from glm_kernels.bench.cases import Case, Operands

_FEWEST = 3
_SECONDS_A_CASE = 4.0  # a case so slow that all rounds would take longer gets fewer
_ROWS = 5
_CYCLES_A_SECOND = 2e9  # no GPU's clock is much faster, so a device never sleeps shorter than asked


@dataclass(frozen=True)
class Sample:
    """Milliseconds of one repetition; `host` until everything was enqueued."""

    forward: float
    both: float
    host: float


@dataclass(frozen=True)
class Measured:
    """Medians in milliseconds, and half the distance from the 10th to the 90th percentile relative to them."""

    repeats: int
    forward_ms: float
    forward_spread: float
    forward_backward_ms: float
    forward_backward_spread: float
    host_ms: float
    memory: float | None
    """Peak memory beyond operands, outputs and gradients, in tensors like v; None where it is not known (CPU)."""


def measure(cases: Sequence[Case], operands: Operands, rounds: int) -> dict[str, Measured]:
    """Times all cases in turn, `rounds` times after a warm-up (a slow one less often)."""
    memory: dict[str, float | None] = {}
    warm: dict[str, Sample] = {}
    samples: dict[str, list[Sample]] = {case.name: [] for case in cases}
    repeat = _on_device if operands.q.is_cuda else _on_cpu
    for case in cases:
        repeat(case, operands, 0.0)  # compiles, fills caches
        memory[case.name] = peak_memory(case, operands)
        warm[case.name] = repeat(case, operands, 0.0)
    for number in range(rounds):
        for case in cases:
            one = warm[case.name]
            if number < max(_FEWEST, _SECONDS_A_CASE * 1e3 / one.both):
                samples[case.name].append(repeat(case, operands, one.host))
    return {name: _summary(taken, memory[name]) for name, taken in samples.items()}


def _on_cpu(case: Case, operands: Operands, host_ms: float) -> Sample:
    begun = time.perf_counter()
    y = case.run(operands)
    between = time.perf_counter()
    case.gradients(y, operands)
    both = 1e3 * (time.perf_counter() - begun)
    return Sample(1e3 * (between - begun), both, both)


def _on_device(case: Case, operands: Operands, host_ms: float) -> Sample:
    """One repetition between events. The device sleeps while the host enqueues, so that the time is its own."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
    torch.cuda.synchronize()
    if host_ms:
        torch.cuda._sleep(int((2 * host_ms + 0.5) * 1e-3 * _CYCLES_A_SECOND))
    begun = time.perf_counter()
    events[0].record()
    y = case.run(operands)
    events[1].record()
    gradients = case.gradients(y, operands)
    events[2].record()
    host = 1e3 * (time.perf_counter() - begun)
    torch.cuda.synchronize()
    del y, gradients
    return Sample(events[0].elapsed_time(events[1]), events[0].elapsed_time(events[2]), host)


def _summary(samples: Sequence[Sample], memory: float | None) -> Measured:
    forward, both = [s.forward for s in samples], [s.both for s in samples]
    return Measured(
        len(samples),
        statistics.median(forward),
        _spread(forward),
        statistics.median(both),
        _spread(both),
        statistics.median(s.host for s in samples),
        memory,
    )


def _spread(values: list[float]) -> float:
    values = sorted(values)
    low, high = (values[round(share * (len(values) - 1))] for share in (0.1, 0.9))
    return (high - low) / 2 / statistics.median(values)


def peak_memory(case: Case, operands: Operands) -> float | None:
    """What forward and backward together need beyond operands, y and gradients, in tensors like v."""
    if not operands.q.is_cuda:
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    y = case.run(operands)
    results = [y, *case.gradients(y, operands)]
    beyond = torch.cuda.max_memory_allocated() - before - sum(x.untyped_storage().nbytes() for x in results)
    return beyond / (operands.v.numel() * operands.v.element_size())


def sustained_seconds(
    function: Callable[[], object], device: str, at_least: float, between: Callable[[float], object] | None = None
) -> float:
    """Of one call among many in a row: the median of five rows, which take `at_least` seconds together.

    A GPU that works without a pause runs slower than one that is asked now and then, and so does training. The first
    call, which compiles and allocates, is not counted. `between(seconds of a call)` is called after every call, and is
    not counted either: what a GPU does besides decides its clock.
    """
    function()
    once = row_seconds(function, device, 2)
    count = max(1, min(1000, math.ceil(at_least / _ROWS / max(once, 1e-6))))
    rest = None if between is None else partial(between, once)
    return statistics.median(row_seconds(function, device, count, rest) for _ in range(_ROWS))


def row_seconds(
    function: Callable[[], object], device: str, count: int, between: Callable[[], object] | None = None
) -> float:
    """Of a call, the mean over `count` of them in a row, without what is called after each."""
    if device != "cuda":
        begun = time.perf_counter()
        for _ in range(count):
            function()
        return (time.perf_counter() - begun) / count
    pieces = 1 if between is None else count
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(pieces)]
    for first, last in events:
        first.record()
        for _ in range(count // pieces):
            function()
        last.record()
        if between is not None:
            between()
    torch.cuda.synchronize()
    return sum(float(first.elapsed_time(last)) for first, last in events) / 1e3 / count


def copy_bandwidth(device: str) -> float:
    """Bytes per second of a large copy, read and written ones counted: what memory gives at most."""
    size = (1 << 30) if device == "cuda" else (1 << 26)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = _seconds(lambda: target.copy_(source), device)
    return 2 * size / seconds


def _seconds(function: Callable[[], object], device: str) -> float:
    taken = []
    for _ in range(22):
        if device == "cuda":
            begun, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begun.record()
            function()
            ended.record()
            torch.cuda.synchronize()
            taken.append(begun.elapsed_time(ended) / 1e3)
        else:
            start = time.perf_counter()
            function()
            taken.append(time.perf_counter() - start)
    return statistics.median(taken[2:])
