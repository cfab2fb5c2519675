"""Whether a run whose attempt has ended is started again, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from glm_launch.causes import Cause
from glm_launch.records import Attempt, EndKind

__all__ = ["Decision", "decide"]

_LONGEST_DELAY = 900.0
_STANDSTILLS = 5
"""So often in a row a run may be asked to stop without having come any further."""


@dataclass(frozen=True)
class Decision:
    """What to do: nothing more, start it again after `delay` seconds, or leave it failed; and why, in words."""

    action: Literal["done", "restart", "give up"]
    delay: float = 0.0
    why: str = ""


def decide(cause: Cause, step: int, before: Sequence[Attempt], *, retries: int, retry_delay: float) -> Decision:
    """What becomes of a run.

    step: where the newest checkpoint is. before: the attempts before this one. Failures that may pass are borne
    `retries` times in a row; whenever there is a newer checkpoint, it counts anew. An error of which nobody knows
    whether it passes does not if it comes again, word by word, without any progress.
    """
    if cause.kind in ("finished", "cancelled"):
        return Decision("done")
    if cause.kind == "deterministic":
        return Decision("give up", why="a restart would meet it again")
    if cause.kind == "stopped":
        if len(_without_progress(before, step, ("stopped",))) >= _STANDSTILLS:
            return Decision("give up", why=f"stopped {_STANDSTILLS} times in a row without any progress")
        return Decision("restart")
    failures = _without_progress(before, step, ("transient", "unknown"))
    if cause.kind == "unknown" and cause.words in [attempt.end.cause for attempt in failures if attempt.end]:
        return Decision("give up", why="the same twice without any progress")
    if len(failures) >= retries:
        return Decision("give up", why=f"failed {len(failures) + 1} times without any progress")
    return Decision("restart", min(retry_delay * 2 ** len(failures), _LONGEST_DELAY))


def _without_progress(before: Sequence[Attempt], step: int, kinds: tuple[EndKind, ...]) -> list[Attempt]:
    """The last attempts, back to the last one that ended at an earlier step or otherwise.

    One of which nobody could tell how it ended is no sign of anything, and is passed over.
    """
    found: list[Attempt] = []
    for attempt in reversed(before):
        if attempt.end is None:
            continue
        if attempt.end.kind not in kinds or attempt.end.step < step:
            break
        found.append(attempt)
    return found
