"""How far a run has come: the few numbers that a checkpoint carries beside its tensors."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

from glm_scale.training.engine import StepResult

__all__ = ["Counters"]


@dataclass(frozen=True)
class Counters:
    """`step`: batches consumed, skipped ones included. `samples`: sequences consumed, the whole state of
    the data.

    `tokens`: positions consumed. `skipped`: steps not applied, `bad_streak`: how many in a row for a non-finite
    loss or gradient. `step` and `tokens` go back with the run; `samples` does not, so no sample is read twice.
    """

    step: int = 0
    samples: int = 0
    tokens: int = 0
    skipped: int = 0
    bad_streak: int = 0

    def after(self, sequences: int, tokens: int, result: StepResult) -> Self:
        """The counters after one more step over so many sequences of `tokens` positions together."""
        return dataclasses.replace(
            self,
            step=self.step + 1,
            samples=self.samples + sequences,
            tokens=self.tokens + tokens,
            skipped=self.skipped + (not result.applied),
            bad_streak=0 if result.applied or result.spike else self.bad_streak + 1,
        )

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold them."""
        return dataclasses.asdict(self)
