"""One page on where the time of a step goes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from glm_scale.training.profiling.components import COMMUNICATION, component
from glm_scale.training.profiling.trace import BACKWARD, BETWEEN, FORWARD, OPTIMIZER, Span, Trace, Work

__all__ = ["describe", "exposed_communication"]

_PHASES = (FORWARD, BACKWARD, OPTIMIZER, BETWEEN)
_LONGEST = 20
_NAME = 90


def describe(trace: Trace) -> str:
    """The page, in Markdown. Times are milliseconds a step, the mean over the steps of the trace."""
    count = max(len(trace.steps), 1)
    step = sum(span.seconds for span in trace.steps) / count
    busy = _covered(trace.work) / count
    lines = [
        f"# Where {count} steps of {1e3 * step:.1f} ms went",
        "",
        *_by_component(trace.work, count, step),
        "",
        *_remarks(trace, count, step, busy),
        "",
        *_longest(trace.work, count, step),
        "",
        "The trace itself opens in https://ui.perfetto.dev, a memory snapshot in https://pytorch.org/memory_viz.",
    ]
    return "\n".join(lines) + "\n"


def _by_component(work: Iterable[Work], count: int, step: float) -> list[str]:
    table: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for piece in work:
        table[component(piece.name)][piece.phase] += 1e3 * piece.seconds / count
    lines = [_row(("ms a step", *_PHASES, "all", "of the step")), _row("---" for _ in range(len(_PHASES) + 3))]
    for name in sorted(table, key=lambda name: -sum(table[name].values())):
        total = sum(table[name].values())
        lines.append(
            _row((name, *(_ms(table[name][phase]) for phase in _PHASES), _ms(total), f"{total / step / 10:.1f} %"))
        )
    return lines


def _remarks(trace: Trace, count: int, step: float, busy: float) -> list[str]:
    where = "GPU" if trace.on_gpu else "CPU, operators of all threads"
    remarks = [
        f"Busy ({where}): {1e3 * busy:.1f} ms a step, {busy / step:.1%}. Idle: {1e3 * max(step - busy, 0):.1f} ms, in "
        f"which the host has not given it work, before {_waits(trace.work, count)}."
    ]
    if any(component(piece.name) == COMMUNICATION for piece in trace.work):
        exposed = exposed_communication(trace)[0] / count
        remarks.append(f"Communication that nothing else hides: {1e3 * exposed:.1f} ms a step.")
    return remarks


def _waits(work: Iterable[Work], count: int) -> str:
    """Milliseconds a step in which nothing is at work, by the phase of what comes then."""
    waits: dict[str, float] = dict.fromkeys(_PHASES, 0.0)
    reached = float("inf")
    for piece in work:
        waits[piece.phase] += 1e3 * max(piece.start - reached, 0.0) / count
        reached = piece.end if reached == float("inf") else max(reached, piece.end)
    return ", ".join(f"{phase} {ms:.1f}" for phase, ms in waits.items() if ms >= 0.05)


def _longest(work: Sequence[Work], count: int, step: float) -> list[str]:
    total: dict[tuple[str, str], float] = defaultdict(float)
    times: dict[tuple[str, str], int] = defaultdict(int)
    for piece in work:
        key = _short(piece.name), piece.phase
        total[key] += 1e3 * piece.seconds / count
        times[key] += 1
    lines = [_row(("what takes longest", "phase", "times", "ms", "of the step")), _row("---" for _ in range(5))]
    for name, phase in sorted(total, key=lambda key: -total[key])[:_LONGEST]:
        ms = total[name, phase]
        lines.append(
            _row((f"`{name}`", phase, f"{times[name, phase] / count:.0f}", _ms(ms), f"{ms / step / 10:.1f} %"))
        )
    return lines


def exposed_communication(trace: Trace) -> tuple[float, float]:
    """Seconds in which nothing else is at work while ranks exchange, and all seconds in which they do."""
    exchanges = [piece for piece in trace.work if component(piece.name) == COMMUNICATION]
    others = [piece for piece in trace.work if component(piece.name) != COMMUNICATION]
    return _covered(trace.work) - _covered(others), _covered(exchanges)


def _covered(spans: Iterable[Span]) -> float:
    """Seconds in which at least one of them is at work. They come by their start."""
    covered, reached = 0.0, float("-inf")
    for span in spans:
        covered += max(span.end - max(span.start, reached), 0.0)
        reached = max(reached, span.end)
    return covered


def _short(name: str) -> str:
    """A C++ name without the types of its arguments."""
    name = re.sub(r"^void |\(anonymous namespace\)::|at::native::", "", name).partition("(")[0]
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ms(value: float) -> str:
    return f"{value:.2f}" if value else ""
