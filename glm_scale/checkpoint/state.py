"""What a checkpoint holds of training beside the tensors: a few numbers, as JSON in its manifest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

__all__ = ["Counters", "SpikeHistory", "TrainingState"]


@dataclass(frozen=True)
class Counters:
    """How far a run has come.

    `step`: batches consumed, skipped ones included. `samples`: sequences consumed, the whole state of the data.
    `tokens`: positions consumed. `skipped`: steps not applied, `bad_streak`: how many in a row for a non-finite
    loss or gradient. `step` and `tokens` go back with the run; `samples` does not, so no sample is read twice.
    """

    step: int = 0
    samples: int = 0
    tokens: int = 0
    skipped: int = 0
    bad_streak: int = 0

    def after(self, sequences: int, tokens: int, *, applied: bool, spike: bool) -> Self:
        """The counters after one more step over so many sequences of `tokens` positions together.

        `applied`: the weights have changed; if not, `spike` says that the step was an outlier, not non-finite.
        """
        return dataclasses.replace(
            self,
            step=self.step + 1,
            samples=self.samples + sequences,
            tokens=self.tokens + tokens,
            skipped=self.skipped + (not applied),
            bad_streak=0 if applied or spike else self.bad_streak + 1,
        )


@dataclass(frozen=True)
class SpikeHistory:
    """By what steps are judged: losses and gradient norms of the last applied steps, the latest skipped steps, how
    often in a row the run has gone back, and the step of the furthest checkpoint that it has gone back to.
    """

    losses: tuple[float, ...] = ()
    norms: tuple[float, ...] = ()
    skips: tuple[int, ...] = ()
    rollbacks: int = 0
    furthest: int = -1


@dataclass(frozen=True)
class TrainingState:
    """`optimizer_steps`: those applied. `random`: the generators' states by device, base64.

    `validation_loss` is the one measured after this step, `spikes` the history by which steps are judged, and
    `seconds_of_last_save` how long the checkpoint before took from its begin to its commit; None if there is none.
    """

    counters: Counters
    optimizer_steps: int
    random: Mapping[str, str]
    validation_loss: float | None = None
    spikes: SpikeHistory | None = None
    seconds_of_last_save: float | None = None

    def as_json(self) -> dict[str, Any]:
        """As a manifest holds it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Self:
        """The reverse; what this version does not know is left out. Raises ValueError saying what is wrong."""
        try:
            return TypeAdapter(cls).validate_python(state)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, ("state", *first["loc"])))
            raise ValueError(f"{place}: {first['msg']}") from error
