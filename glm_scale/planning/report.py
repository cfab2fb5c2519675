"""A planning as tables for people and as plain values for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table

from glm_scale.planning.plan import Impossible, Plan, Planning

__all__ = ["exchanges_table", "memory_table", "values"]

_COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send")
_GB = 1e9


def memory_table(plans: Sequence[Plan]) -> Table:
    """Time of a step, and what fills the memory of a GPU."""
    table = _table("data×seq×tensor", "step", "bound by", "tokens/s", "parameters")
    for name in ("weights", "gradients", "optimizer", "activations", "boundary", "buffers", "together", "fits"):
        table.add_column(name, justify="right")
    table.add_column("with")
    for number, plan in enumerate(plans, 1):
        seconds, memory = plan.seconds, plan.memory
        parts = [*asdict(memory).values(), memory.total]
        table.add_row(
            str(number), _mesh(plan), f"{seconds.total:.3g} s", seconds.bound,
            f"{plan.tokens_per_step / seconds.total:,.0f}", f"{plan.estimate.part.numbers / 1e6:,.1f} M",
            *(f"{part / _GB:.2f}" for part in parts), "yes" if plan.fits else "no",
            " ".join(setting.removeprefix("training.") for setting in plan.changed), style=None if plan.fits else "dim",
        )  # fmt: skip
    return table


def exchanges_table(plans: Sequence[Plan]) -> Table:
    """What a rank sends in a step, how much of the step each axis takes, and the strategies of mixers."""
    table = _table("data×seq×tensor", *(name.replace("_", "-") for name in _COLLECTIVES), "a token")
    for name in ("TFLOP", "work", "tensor", "sequence", "replicas"):
        table.add_column(name, justify="right")
    table.add_column("spread by")
    for number, plan in enumerate(plans, 1):
        sent, seconds = _by_collective(plan), plan.seconds
        times = (seconds.work, seconds.tensor, seconds.sequence, seconds.replicas)
        table.add_row(
            str(number), _mesh(plan), *(f"{sent[name] / _GB:.3g}" if sent[name] else "–" for name in _COLLECTIVES),
            f"{plan.sent_per_token:,.0f} B", f"{plan.estimate.flops / 1e12:,.1f}",
            *(f"{time:.3g} s" if time else "–" for time in times),
            ", ".join(f"{mixer}: {strategy}" for mixer, strategy in plan.strategies.items()),
        )  # fmt: skip
    return table


def values(planning: Planning) -> dict[str, Any]:
    """Everything, in bytes, seconds and FLOPs of one rank and step."""
    return {
        "plans": [_values_of(plan) for plan in planning.plans],
        "impossible": [_layout(plan) | {"reasons": list(plan.reasons)} for plan in planning.impossible],
    }


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
        "seconds": asdict(plan.seconds) | {"total": plan.seconds.total, "bound": plan.seconds.bound},
        "tokens_per_second": plan.tokens_per_step / plan.seconds.total,
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
    for column in columns:
        table.add_column(column, justify="left" if column in ("data×seq×tensor", "bound by") else "right", no_wrap=True)
    return table
