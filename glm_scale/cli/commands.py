"""What all commands have in common: numbers that are numbers, and paths that can exist."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from glm_data.paths import path_problem
from glm_scale.errors import UserError

__all__ = ["Commands"]

_SHOWN = 40


class Commands(typer.Typer):
    """A group of commands whose values are checked before anything is done with them."""

    def command(self, *arguments: Any, **settings: Any) -> Callable[..., Any]:
        return super().command(*arguments, **({"cls": _CheckedCommand} | settings))


class _CheckedCommand(TyperCommand):
    """Refuses what no command can use. What a value means is the command's own to check."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, list(args))
        if not ctx.resilient_parsing:
            written, _, _ = self.make_parser(ctx).parse_args(args=list(args))
            for parameter in self.params:
                name = str(parameter.name)
                for value, text in zip(_listed(ctx.params.get(name)), _listed(written.get(name)), strict=False):
                    # A shell's variable that is not set, say; Python takes it for the working directory.
                    if problem := "is empty" if isinstance(value, Path) and text == "" else _problem(value):
                        shown = str(value) if len(str(value)) <= _SHOWN else f"{str(value)[:_SHOWN]}…"
                        said = parameter.opts[0] if parameter.param_type_name == "option" else name.upper()
                        raise UserError(f"{said} {problem}" if text == "" else f"{said} {shown!r} {problem}")
        return rest


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _problem(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "is no finite number"
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "does not fit into 64 bits"
    if isinstance(value, Path):
        return path_problem(value)
    return ""
