"""Which panels stand on a sheet: the figures that reports are made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from glm_scale.errors import UserError
from glm_scale.scaling.laws import Refusal
from glm_scale.scaling.pictures.panels import Subject, panel_of
from glm_scale.scaling.pictures.printed import CANVAS, print_sheet
from glm_scale.scaling.pictures.quantities import COSTS, LOSSES, Across, Loss, Rate
from glm_scale.scaling.pictures.shapes import Axis, Canvas, Panel, Sheet

__all__ = ["FORMATS", "USUAL", "draw", "reason_of", "sheet_of", "title_of"]

FORMATS = (".png", ".svg", ".pdf")
USUAL = COSTS[:2]
_REMARKS = 4


def draw(subject: Subject, path: Path, across: Sequence[Across] = USUAL, loss: Loss = LOSSES[0]) -> None:
    """Losses over each of these, side by side, as PNG, SVG or PDF. Raises OSError, and UserError if nothing can be
    shown over what was asked for."""
    print_sheet(sheet_of(subject, across, loss, CANVAS), path)


def sheet_of(subject: Subject, across: Sequence[Across], loss: Loss, canvas: Canvas) -> Sheet:
    """Panels over what is known of some run.

    Raises UserError if runs have been measured, but none says any of these, or what its loss is on this scale.
    """
    found = [panel_of(subject, each, loss, canvas) for each in across]
    panels = tuple(panel for panel in found if panel is not None)
    if not panels:
        if any(len(run.train) or len(run.validation) for run in subject.comparison.runs):
            names = ", ".join(each.key for each in across)
            raise UserError(f"no run here says {loss.key} over {names}; choose other axes with --x and --y")
        panels = (_nothing(across[0], loss),)
    remarks = subject.comparison.remarks
    notes = [f"Note: {remark}" for remark in remarks[:_REMARKS]]
    notes += [f"… and {len(remarks) - _REMARKS} more"] if len(remarks) > _REMARKS else []
    reason = reason_of(subject)
    title = "Loss over the learning rate" if all(isinstance(each, Rate) for each in across) else title_of(subject)
    return Sheet(title, tuple([reason] * bool(reason) + notes), canvas, panels)


def title_of(subject: Subject) -> str:
    """Of the figure and its page."""
    return "Loss against what it took" if subject.answer is None else "Scaling of the final validation loss"


def reason_of(subject: Subject) -> str:
    """Why no law is drawn of runs that are meant to differ in size; empty if one is."""
    law = subject.answer.law if subject.answer else None
    return f"No law is drawn: {law.reason}" if isinstance(law, Refusal) else ""


def _nothing(across: Across, loss: Loss) -> Panel:
    return Panel(Axis(across.title, 1, 10, ()), Axis(loss.title, 1, 10, ()), "nothing measured yet")
