"""Which checkpoints stay on disk, and why."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from glm_scale.checkpoint.reading import Checkpoint

__all__ = ["Reason", "Retention", "validation_loss"]

Reason = Literal["last", "at", "every", "best"]


@dataclass(frozen=True)
class Retention:
    """What stays: the newest `last`, those of the steps `at`, all of steps that are multiples of `every`, and as many
    as `best` says of those with the least validation loss.
    """

    last: int
    every: int | None = None
    best: int = 0
    at: Collection[int] = ()

    def reasons(self, checkpoints: Sequence[Checkpoint]) -> dict[Path, list[Reason]]:
        """Why each of the checkpoints that stay does so. They come oldest first.

        Of those of one step only the last counts: the run had gone back and came to this step again.
        """
        counted = list({checkpoint.step: checkpoint for checkpoint in checkpoints}.values())
        losses = [(loss, -c.step, c) for c in counted if (loss := validation_loss(c)) is not None]
        best = sorted(losses, key=lambda entry: entry[:2])[: self.best]
        chosen: dict[Reason, list[Checkpoint]] = {
            "last": counted[-self.last :],
            "at": [c for c in counted if c.step in self.at],
            "every": [c for c in counted if self.every is not None and c.step % self.every == 0],
            "best": [c for *_, c in best],
        }
        reasons: dict[Path, list[Reason]] = {}
        for reason, members in chosen.items():
            for checkpoint in members:
                reasons.setdefault(checkpoint.path, []).append(reason)
        return reasons


def validation_loss(checkpoint: Checkpoint) -> float | None:
    """The validation loss of a checkpoint; None if it is not known or not finite."""
    loss = checkpoint.state.validation_loss
    return loss if loss is not None and math.isfinite(loss) else None
