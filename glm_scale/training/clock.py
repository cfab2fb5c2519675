"""Where the time of training goes, by phase, at the price of two clock readings a phase."""

import contextlib
import time
from collections.abc import Iterator

__all__ = ["COMPUTE", "Clock"]

COMPUTE = frozenset({"forward_backward", "optimizer"})
_VALIDATION = "evaluation"


class Clock:
    """Seconds spent in named phases. Phases do not nest; time outside every phase counts as "other".

    On a GPU kernels run behind the host, so a phase shows the host's time; the sum is right because every step waits
    for its loss, and that wait falls into the optimizer phase.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._started = time.perf_counter()

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

        Evaluation is work the user asked for beside training, so it counts neither as training nor as overhead.
        """
        seconds = self.seconds()
        training = sum(seconds.values()) - seconds.get(_VALIDATION, 0.0)
        computing = sum(seconds.get(name, 0.0) for name in COMPUTE)
        return 1 - computing / training if training > 0 else 0.0
