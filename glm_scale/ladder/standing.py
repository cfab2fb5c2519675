"""How far the runs of a ladder have come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from glm_scale.config.changes import is_same_run
from glm_scale.errors import UserError
from glm_scale.ladder.members import Ladder, Member, is_finished
from glm_scale.run.recorded import recorded_config
from glm_scale.run_directory import RunStatus
from glm_scale.scaling.curves import load_run

__all__ = ["Standing", "in_words", "standings"]

State = RunStatus | Literal["missing", "other"]
"""A run's status; missing: nobody has begun it. other: a run of this name was trained otherwise."""


@dataclass(frozen=True)
class Standing:
    """Of one run: its state, the steps that it has come to, and its last validation loss, final or not."""

    member: Member
    state: State
    step: int = 0
    loss: float | None = None


def standings(ladder: Ladder) -> list[Standing]:
    """One for each run, in their order."""
    return [_standing(member) for member in ladder.members]


def in_words(found: Iterable[Standing]) -> str:
    """How many are in which state."""
    counts = Counter(standing.state for standing in found)
    return ", ".join(f"{count} {state}" for state, count in counts.most_common()) or "no runs"


def _standing(member: Member) -> Standing:
    run = member.run
    if not run.exists():
        return Standing(member, "missing")
    state: State = run.status()
    if not (is_finished(member) if state == "finished" else _is_this(member)):
        state = "other"
    found = load_run(run)
    return Standing(member, state, found.tokens // member.config.training.batch_tokens, found.validation_loss)


def _is_this(member: Member) -> bool:
    try:
        recorded = recorded_config(member.run).values
    except UserError:
        return False
    return is_same_run(recorded, member.config.model_dump(mode="json"))
