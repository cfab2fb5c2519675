"""Which tokens a mixer predicts better than another: losses by position and by kind, as tables.

What the groups and their errors are: `glm_scale.tracking.breakdown`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table

from glm_scale.scaling.comparison import Comparison, quantity
from glm_scale.scaling.curves import TrainedRun
from glm_scale.tracking.breakdown import BIGRAM, FOURGRAM, KINDS, POSITION, Breakdown, Group, buckets, source_cell

__all__ = ["Measured", "breakdown_numbers", "breakdown_tables", "comparable", "compared_breakdowns"]

_TITLES = {
    "kind/new": "new bigram",
    "kind/repeated": "repeated bigram",
    "kind/repeated-bigram": "  but not the 4-gram",
    "kind/repeated-4gram": "  and the 4-gram",
}
_TOGETHER = 2
"""Powers of two in one line of a comparison."""


@dataclass(frozen=True, eq=False)
class Measured:
    """The best run of a mixer, what it is called, and its loss taken apart."""

    label: str
    run: TrainedRun
    breakdown: Breakdown


def compared_breakdowns(comparison: Comparison) -> Iterator[Table | str]:
    """Where the best run of each mixer differs from the best of all: a table, and how to read it. Nothing if there are
    not two mixers whose losses were taken apart."""
    measured, elsewhere = comparable(comparison)
    if elsewhere:
        named = ", ".join(one.label for one in elsewhere)
        yield (
            f"note: losses by token of {named} cannot be compared with those of {measured[0].label}, they were "
            "measured on other sequences; glm-scale evaluate RUN of each measures them on the whole validation split"
        )
    if len(measured) < 2:
        return
    best, *others = measured
    table = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    table.add_column("validation loss of tokens", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    for one in measured:
        table.add_column(escape(one.label), justify="right")
    for title, cells in _lines(best.breakdown):
        groups = [one.breakdown.group(*cells) for one in measured]
        if not groups[0].count:
            continue
        differences = (_with_error(group - groups[0], sign="+") for group in groups[1:])
        share = groups[0].count / best.breakdown.whole.count
        table.add_row(title, f"{share:.1%}", _with_error(groups[0]), *differences)
    yield table
    yield (
        f"{', '.join(other.label for other in others)}: difference to {best.label} on the same tokens; ± standard "
        f"errors over {len(best.breakdown.tokens)} parts of the text, other seeds are not in them"
    )


def comparable(comparison: Comparison) -> tuple[list[Measured], list[Measured]]:
    """Of every mixer its best run, best first: those measured on the same tokens as the first, and the others."""
    measured = _measured(comparison)
    alike = [one for one in measured if one.breakdown.is_of_same_tokens(measured[0].breakdown)]
    return alike, [one for one in measured if one not in alike]


def breakdown_tables(breakdown: Breakdown) -> Iterator[Table]:
    """The breakdown of one model: by kind, by data set, and by powers of two of position and distance."""
    kinds = Table(box=None, header_style="bold", pad_edge=False)
    kinds.add_column("tokens that end a", no_wrap=True)
    for heading in ("share", "tokens", "nats per token"):
        kinds.add_column(heading, justify="right", no_wrap=True)
    total = breakdown.whole.count
    for name, cells in KINDS.items():
        group = breakdown.group(*cells)
        kinds.add_row(_TITLES[name], f"{group.count / total:.1%}", f"{group.count:,}", _with_error(group))
    yield kinds

    if breakdown.sources:
        sources = Table(box=None, header_style="bold", pad_edge=False)
        sources.add_column("tokens of", no_wrap=True)
        for heading in ("share", "tokens", "nats per token", "bits per byte"):
            sources.add_column(heading, justify="right", no_wrap=True)
        for source, bits in breakdown.source_bits_per_byte().items():
            group = breakdown.group(source_cell(source))
            share = f"{group.count / total:.1%}"
            sources.add_row(source, share, f"{group.count:,}", _with_error(group), f"{bits:.4f}")
        yield sources

    powers = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    powers.add_column("so many\ntokens", justify="right", no_wrap=True)
    for heading in ("before\nit", "since the\nbigram", "since the\n4-gram"):
        powers.add_column(heading, justify="right", no_wrap=True)
        powers.add_column("nats\nper token", justify="right", no_wrap=True)
    for name in buckets(breakdown.sequence_length):
        groups = [breakdown.group(cells + name) for cells in (POSITION, BIGRAM, FOURGRAM)]
        if any(group.count for group in groups):
            shown = [text for group in groups for text in (quantity(group.count), _with_error(group, digits=3))]
            powers.add_row(_range(int(name), 2 * int(name) - 1, breakdown), *shown)
    yield powers


def breakdown_numbers(comparison: Comparison) -> list[dict[str, Any]]:
    """Of the best run of each mixer the loss of every group, and the difference to the first of these runs, if they
    were measured on the same tokens."""
    measured = _measured(comparison)
    found = []
    for one in measured:
        groups, first = one.breakdown.groups(), measured[0].breakdown
        reference = first.groups() if one.breakdown.is_of_same_tokens(first) else {}
        numbers = {name: _numbers(group, reference.get(name)) for name, group in groups.items()}
        found.append({"name": one.run.name, "mixer": one.run.mixer, "groups": numbers})
    return found


def _measured(comparison: Comparison) -> list[Measured]:
    """Of every mixer the run with the least validation loss, of those whose loss has been taken apart as it is now."""
    best: dict[str, Measured] = {}
    for run in comparison.runs:
        if run.mixer in best or run.validation_loss is None:
            continue
        breakdown = Breakdown.read(run.directory.breakdown, run.summary.step)
        if breakdown is not None:
            best[run.mixer] = Measured(comparison.label(run), run, breakdown)
    return list(best.values())


def _lines(breakdown: Breakdown) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The lines of a comparison: what they are called, and how the names of their cells begin."""
    for name, cells in KINDS.items():
        yield _TITLES[name], cells
    for source in breakdown.sources:
        yield f"of {source}", (source_cell(source),)
    names = buckets(breakdown.sequence_length)
    spans = [names[first : first + _TOGETHER] for first in range(0, len(names), _TOGETHER)]
    for title, beginnings in (
        ("{} tokens before it", (POSITION,)),
        ("repeated after {}", (BIGRAM, FOURGRAM)),
    ):
        for span in spans:
            cells = tuple(beginning + name for beginning in beginnings for name in span)
            yield title.format(_range(int(span[0]), (int(span[0]) << _TOGETHER) - 1, breakdown)), cells


def _range(least: int, most: int, breakdown: Breakdown) -> str:
    most = min(most, breakdown.sequence_length)
    return f"{least:,}" if least == most else f"{least:,}–{most:,}"


def _with_error(group: Group, sign: str = "", digits: int = 4) -> str:
    if not group.count:
        return "–"
    error = "?" if math.isnan(group.error) else f"{group.error:.{digits}f}"
    return f"{group.loss:{sign}.{digits}f} ± {error}"


def _numbers(group: Group, first: Group | None) -> dict[str, float | int | None]:
    values = {"loss": group.loss, "error": group.error}
    if first is not None:
        values |= {"difference": (group - first).loss, "difference_error": (group - first).error}
    return {"tokens": group.count} | {name: x if math.isfinite(x) else None for name, x in values.items()}
