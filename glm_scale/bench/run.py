"""From the parts that a user asks for to a table of what they take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from glm_data import load_index
from glm_scale.bench.calls import machine
from glm_scale.bench.checking import BOUND, check
from glm_scale.bench.measuring import Setting, measure
from glm_scale.bench.parts import PLAIN, SIZES, Part
from glm_scale.bench.results import Results
from glm_scale.errors import UserError

__all__ = ["run_table"]


def run_table(spellings: Sequence[str], setting: Setting, output: Path, checked: bool) -> None:
    """Measure parts one after the other, the plain transformer of their lengths first, and print each as it comes.

    `checked`: those whose losses are wrong are not measured. Raises UserError in the end for what could not be.
    """
    parts = _ordered(spellings, setting)
    results = Results(output, machine(), setting.size, f"{setting.data} {load_index(setting.data).fingerprint}")
    typer.echo(f"{results.machine}; size {setting.size}, {len(parts)} parts; results go to {output}")
    problems: list[str] = []
    for part in parts:
        try:
            if checked and not part.plain:
                _must_be_right(part, setting)
            results.add(measure(part, setting))
        except UserError as error:
            problems.append(str(error))
            typer.echo(f"{part}: not measured", err=True)
        else:
            typer.echo(results.line())
    typer.echo(f"\n{results.markdown()}")
    if problems:
        raise UserError("\n".join(problems))


def _ordered(spellings: Sequence[str], setting: Setting) -> list[Part]:
    size = SIZES.get(setting.size)
    if size is None:
        raise UserError(f"--size {setting.size}: known are {', '.join(SIZES)}")
    asked = [Part.parse(spelling) for spelling in spellings]
    for part in asked:
        if size.tokens % part.length and part.length % size.tokens:
            raise UserError(f"{part}: {part.length} is no part and no multiple of the {size.tokens} tokens of a step")
    ordered: dict[Part, None] = {}
    for length in dict.fromkeys(part.length for part in asked):
        ordered |= dict.fromkeys([Part(PLAIN[0], length), *(part for part in asked if part.length == length)])
    return list(ordered)


def _must_be_right(part: Part, setting: Setting) -> None:
    found = check(part, setting)
    says = f"{part}: losses differ from those in fp32 by {found.error:.1e}"
    typer.echo(says)
    if not found.right:
        raise UserError(f"{says}, more than {BOUND}")
