"""A planning as tables for people and as plain values for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table

from glm_scale.planning.plan import Impossible, Plan, Planning

__all__ = [
    "DETAILS", "LEGEND", "USUAL_MFU", "exchanges_table", "legend", "likely", "memory_table", "parts_table",
    "summary_table", "times_table", "values",
]  # fmt: skip

USUAL_MFU = (0.15, 0.4)
"""Model FLOPs utilisation: of configs/160m.yaml on an H100, not compiled, and of training that was tuned."""

LEGEND = {
    "data×seq×tensor": "ranks of parallel.data, parallel.sequence (context parallelism) and parallel.tensor",
    "step ≥, tokens/s ≤": "of all GPUs, if arithmetic runs at peak or memory at full bandwidth, whichever takes "
    "longer, and then every exchange at the full speed of its link",
    "MFU ≤": "share of the GPUs' peak FLOP/s that the model's own arithmetic then has (recomputation not counted)",
    "bound by": "what takes most of that time: compute, memory bandwidth, or the exchanges of tensor ranks, of "
    "sequence ranks, or of replicas: the data × sequence ranks with the same weights, which sum their gradients",
    "GB": "memory of one GPU, 10⁹ bytes, at most; it fits if that is within 90 % of what the GPU has",
    "with": "settings of training.… that differ from the configuration's, because it would not fit without",
    "weights … total": "weights as they compute; gradients; fp32 weights and moments of the optimizer; activations "
    "that wait for the backward pass; boundary, what sequence ranks get of earlier tokens; buffers, what ZeRO gathers "
    "or reduces at a time, and tensors that come and go",
}
DETAILS = {
    "all-reduce … send": "GB that one rank sends in a step, by collective",
    "B/token": "bytes that it sends for each token it works on",
    "TFLOP": "10¹² operations of one rank in a step, recomputation counted",
    "work": "computation of the step; tensor, sequence and replicas are its exchanges",
    "spread by": "how mixers exchange over sequence ranks",
}
"""What the columns mean."""
_PREDICTED = {
    "step, tokens/s": "of all GPUs: what single operators, copies and exchanges took on such a GPU, put together",
    "MFU": "share of the GPUs' peak FLOP/s that the model's own arithmetic then has (recomputation not counted)",
    "bound by": "what takes most of that time: a component of the computation, or the exchanges of tensor ranks, of "
    "sequence ranks, or of replicas: the data × sequence ranks with the same weights, which sum their gradients",
}

_COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send")
_GB = 1e9


def legend(planning: Planning, details: bool) -> dict[str, str]:
    """What the columns mean that are shown of a planning."""
    meant = dict(LEGEND)
    if planning.calibrated:
        meant = _PREDICTED | {term: meaning for term, meaning in meant.items() if "≥" not in term and "≤" not in term}
        meant["bound by"] = _PREDICTED["bound by"]
    return meant | (DETAILS if details else {})


def summary_table(plans: Sequence[Plan]) -> Table:
    """What a layout takes at the least, and whether it fits."""
    calibrated = any(plan.seconds.calibrated for plan in plans)
    times = ("step", "tokens/s", "MFU") if calibrated else ("step ≥", "tokens/s ≤", "MFU ≤")
    table = _table(*times, "bound by", "GB", "fits")
    table.add_column("with", overflow="fold")
    for number, plan in enumerate(plans, 1):
        seconds = plan.seconds
        table.add_row(
            str(number), _mesh(plan), f"{seconds.total:.3g} s", f"{plan.tokens_per_step / seconds.total:,.0f}",
            f"{plan.mfu(seconds.total):.0%}", seconds.bound, f"{plan.memory.total / _GB:.1f}",
            "yes" if plan.fits else "no", " ".join(setting.removeprefix("training.") for setting in plan.changed),
            style=None if plan.fits else "dim",
        )  # fmt: skip
    return table


def memory_table(plans: Sequence[Plan]) -> Table:
    """What fills the memory of a GPU."""
    table = _table("weights", "gradients", "optimizer", "activations", "boundary", "buffers", "total")
    for number, plan in enumerate(plans, 1):
        parts = [*asdict(plan.memory).values(), plan.memory.total]
        table.add_row(
            str(number), _mesh(plan), *(f"{part / _GB:.2f}" for part in parts), style=None if plan.fits else "dim"
        )
    return table


def exchanges_table(plans: Sequence[Plan]) -> Table:
    """What a rank sends in a step."""
    table = _table(*(name.replace("_", "-") for name in _COLLECTIVES), "B/token")
    for number, plan in enumerate(plans, 1):
        sent = _by_collective(plan)
        table.add_row(
            str(number), _mesh(plan), *(f"{sent[name] / _GB:.3g}" if sent[name] else "–" for name in _COLLECTIVES),
            f"{plan.sent_per_token:,.0f}",
        )  # fmt: skip
    return table


def times_table(plans: Sequence[Plan]) -> Table:
    """How much of a step each axis takes, and the strategies of mixers."""
    table = _table("TFLOP", "work", "tensor", "sequence", "replicas")
    table.add_column("spread by", overflow="fold")
    for number, plan in enumerate(plans, 1):
        seconds = plan.seconds
        times = (seconds.work, seconds.tensor, seconds.sequence, seconds.replicas)
        table.add_row(
            str(number), _mesh(plan), f"{plan.estimate.flops / 1e12:,.1f}",
            *(f"{time:.3g} s" if time else "–" for time in times),
            ", ".join(f"{mixer}: {strategy}" for mixer, strategy in plan.strategies.items()),
        )  # fmt: skip
    return table


def parts_table(plan: Plan) -> Table:
    """What takes how much of a step in one layout, the largest first."""
    seconds = plan.seconds
    parts = seconds.parts | {
        f"exchanges: {axis}": getattr(seconds, axis) for axis in ("tensor", "sequence", "replicas")
    }
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("component")
    for column in ("ms", "of the step"):
        table.add_column(column, justify="right")
    for name, taken in sorted(parts.items(), key=lambda part: -part[1]):
        if taken:
            table.add_row(name, f"{1e3 * taken:.2f}", f"{taken / seconds.total:.1%}")
    table.add_row("total", f"{1e3 * seconds.total:.2f}", "")
    return table


def likely(plan: Plan) -> str:
    """What the times are: predictions, by which measurements; or bounds, with what to expect by a usual utilisation."""
    if plan.seconds.calibrated:
        assert plan.calibration is not None
        text = f"Times are predictions from single operators that were measured on {plan.calibration.described}."
        missing = ", ".join(plan.seconds.not_measured)
        return f"{text} Not measured: {missing}." if missing else text
    slow, fast = (plan.seconds_at(mfu) for mfu in USUAL_MFU)
    return (
        f"These are upper bounds of speed, by data sheets; real training takes longer. At an MFU of "
        f"{USUAL_MFU[0]:.0%} to {USUAL_MFU[1]:.0%}, as usual, the first makes "
        f"{plan.tokens_per_step / slow:,.0f} to {plan.tokens_per_step / fast:,.0f} tokens/s, a step in "
        f"{slow:.3g} to {fast:.3g} s."
    )


def values(planning: Planning) -> dict[str, Any]:
    """Everything, in bytes, seconds and FLOPs of one rank and step."""
    return {
        "times": _meaning_of_times(planning),
        "plans": [_values_of(plan) for plan in planning.plans],
        "impossible": [_layout(plan) | {"reasons": list(plan.reasons)} for plan in planning.impossible],
    }


def _meaning_of_times(planning: Planning) -> str:
    measured = {plan.calibration.described for plan in planning.plans if plan.calibration and plan.seconds.calibrated}
    if not measured:
        return "lower bounds by data sheets; real steps take longer"
    return f"predictions from single operators measured on {', '.join(sorted(measured))}"


def _values_of(plan: Plan) -> dict[str, Any]:
    return {
        **_layout(plan),
        "fits": plan.fits,
        "changed": list(plan.changed),
        "accumulation": plan.estimate.accumulation,
        "strategies": plan.strategies,
        "parameters": plan.estimate.part.numbers,
        "memory": asdict(plan.memory) | {"total": plan.memory.total},
        "sent": [asdict(exchange) for exchange in plan.exchanges],
        "sent_per_token": plan.sent_per_token,
        "flops": plan.estimate.flops,
        "seconds": asdict(plan.seconds)
        | {
            "total": plan.seconds.total,
            "bound": plan.seconds.bound,
            "calibrated": plan.seconds.calibrated,
        },
        "tokens_per_second": plan.tokens_per_step / plan.seconds.total,
        "mfu": plan.mfu(plan.seconds.total),
    }


def _layout(plan: Plan | Impossible) -> dict[str, Any]:
    return asdict(plan.layout)


def _by_collective(plan: Plan) -> Counter[str]:
    sent: Counter[str] = Counter()
    for exchange in plan.exchanges:
        sent[exchange.collective] += exchange.sent  # type: ignore[assignment]
    return sent


def _mesh(plan: Plan) -> str:
    return f"{plan.layout.data}×{plan.layout.sequence}×{plan.layout.tensor}"


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("", justify="right")
    for column in ("data×seq×tensor", *columns):
        table.add_column(column, justify="left" if column in ("data×seq×tensor", "bound by") else "right")
    return table
