"""Ladders as tables for the terminal, and as values for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from glm_scale.ladder.costs import Cost
from glm_scale.ladder.standing import Standing
from glm_scale.scaling.comparison import quantity

__all__ = ["plan_table", "plan_values", "status_table"]


def plan_table(found: Sequence[Cost]) -> Table:
    """What each run is and costs."""
    table = _table("run", "parameters", "tokens", "of them own", "batch", "rate", "FLOPs", "GB", "GPU hours")
    for cost in found:
        training = cost.member.config.training
        table.add_row(
            escape(cost.member.name),
            quantity(cost.parameters) + (f" ({cost.off:+.1%})" if cost.off else ""),
            quantity(training.tokens),
            quantity(cost.tokens) if cost.member.trunk else "all",
            quantity(training.batch_tokens),
            f"{training.optimizer.learning_rate:.2e}",
            f"{cost.flops:.2e}",
            "does not fit" if cost.memory is None else f"{cost.memory / 1e9:.1f}",
            "–" if cost.hours is None else f"{cost.hours:.3g}",
        )
    return table


def plan_values(found: Sequence[Cost]) -> list[dict[str, Any]]:
    """The same, in whole numbers and bytes."""
    return [
        {
            "name": cost.member.name,
            "mixer": cost.member.config.model.mixer_name,
            "parameters": cost.parameters,
            "asked_parameters": cost.member.parameters,
            "tokens": cost.member.config.training.tokens,
            "own_tokens": cost.tokens,
            "begins_from": cost.member.trunk,
            "flops": cost.flops,
            "memory": cost.memory,
            "gpu_hours": cost.hours,
        }
        for cost in found
    ]


def status_table(found: Sequence[Standing]) -> Table:
    """How each run stands."""
    table = _table("run", "state", "step", "of", "val. loss")
    for standing in found:
        table.add_row(
            escape(standing.member.name),
            standing.state,
            f"{standing.step:,}",
            f"{standing.member.config.training.steps:,}",
            "–" if standing.loss is None else f"{standing.loss:.4f}",
        )
    return table


def _table(first: str, *numbers: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    table.add_column(first, overflow="fold")
    for heading in numbers:
        table.add_column(heading, justify="left" if heading == "state" else "right", no_wrap=True)
    return table
