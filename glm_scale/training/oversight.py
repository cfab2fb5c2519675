"""Those outside of training who watch it: the user, whoever may stop it, the watchdog, and the clock."""

from collections.abc import Callable
from dataclasses import dataclass

from glm_scale.training.clock import Clock
from glm_scale.training.progress import Progress
from glm_scale.training.signals import StopRequest

__all__ = ["Oversight"]


@dataclass(frozen=True)
class Oversight:
    """`progress` speaks to the user, `stop` is looked at between steps, and `heartbeat` is told what the run comes to:
    a step by its number, or anything else that takes its time by its name. `clock` measures where the time goes.
    """

    progress: Progress
    stop: StopRequest
    heartbeat: Callable[[int | str], None]
    clock: Clock
