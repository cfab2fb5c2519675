"""Where the time of training goes, by phase, at the price of two clock readings a phase."""

import contextlib
import time
from collections.abc import Iterator

__all__ = ["COMPUTE", "STARTING", "Clock"]

COMPUTE = frozenset({"forward_backward", "optimizer"})
STARTING = ("imports", "joining", "opening", "model", "engine", "restoring")
"""What comes before the first step, in order."""

_VALIDATION = "evaluation"


class Clock:
    """Seconds spent in named phases. Phases do not nest; time outside every phase counts as "other".

    On a GPU kernels run behind the host, so a phase shows the host's time; the sum is right because every step waits
    for its loss, and that wait falls into the optimizer phase.

    `started`: the unix time at which the process began; what it has done since then were imports.
    """

    def __init__(self, started: float | None = None) -> None:
        imports = 0.0 if started is None else time.time() - started
        self._seconds: dict[str, float] = {} if started is None else {STARTING[0]: imports}
        self._started = time.perf_counter() - imports

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """The time of a block belongs to a phase."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - begin

    def seconds(self) -> dict[str, float]:
        """Seconds of every phase so far, and of "other"; they add up to the time since the clock was made."""
        total = time.perf_counter() - self._started
        return {**self._seconds, "other": total - sum(self._seconds.values())}

    def overhead_fraction(self) -> float:
        """Share of training time outside forward, backward and optimizer.

        Evaluation is work the user asked for beside training, so it counts neither as training nor as overhead; nor
        does what comes before the first step.
        """
        seconds = self.seconds()
        training = sum(seconds.values()) - sum(seconds.get(name, 0.0) for name in (_VALIDATION, *STARTING))
        computing = sum(seconds.get(name, 0.0) for name in COMPUTE)
        return 1 - computing / training if training > 0 else 0.0
