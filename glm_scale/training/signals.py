"""Requests to stop, which the loop reads at the next step boundary: signals, and the limit of a process's time."""

import signal
import time
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Self

__all__ = ["REQUEUE_EXIT_CODE", "StopRequest"]

REQUEUE_EXIT_CODE = 85
"""How `glm-scale train` ends when it was asked to make room and has saved: start the same command again."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_TIME = 1000
"""Stands for the time limit among the numbers of signals."""


def _alone(number: int) -> int:
    return number


class StopRequest:
    """While active, true after the first of SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2, or after `minutes`.

    A second SIGINT or SIGTERM ends the process at once. What was ignored when the process started, as SIGHUP is under
    nohup, stays ignored. Outside the main thread, where Python allows no handlers, there
    are no signals. Looking at it is a vote of all ranks: `largest` gives the largest of the numbers that they bring,
    and a request to one stops all. `earlier`: signals that came before, in a list to which whoever has handled them
    until now may still add while this begins to.
    """

    def __init__(
        self,
        largest: Callable[[int], int] = _alone,
        minutes: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        earlier: Sequence[int] = (),
    ) -> None:
        self._largest = largest
        self._earlier = earlier
        self._clock = clock
        self._end = None if minutes is None else clock() + 60 * minutes
        self._number = 0
        self._previous: dict[signal.Signals, signal.Handlers | None] = {}

    @property
    def number(self) -> int:
        """Of the signal that came, or something else that is not 0 for the time limit; 0 if there was no request."""
        return self._number

    @property
    def reason(self) -> str:
        """ "SIGTERM", another signal, or "its time limit"; empty if there was no request."""
        if self._number == _TIME:
            return "its time limit"
        return signal.Signals(self._number).name if self._number else ""

    @property
    def exit_code(self) -> int:
        """128 + 2 after Ctrl-C, as from a shell; for everything else that the process is to be started again."""
        return 128 + signal.SIGINT if self._number == signal.SIGINT else REQUEUE_EXIT_CODE

    def __bool__(self) -> bool:
        late = self._end is not None and self._clock() >= self._end
        number = self._largest(self._number or (_TIME if late else 0))
        # A signal that arrives during the vote waits for the next one.
        self._number = number or self._number
        return number != 0

    def __enter__(self) -> Self:
        try:
            for number in _SIGNALS:
                if signal.getsignal(number) == signal.SIG_IGN:
                    continue
                self._previous[number] = signal.signal(number, self._request)  # type: ignore[assignment]
        except ValueError:
            self._previous.clear()
        else:
            # Whoever started this process may have left them blocked.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        self._number = self._number or next(iter(self._earlier), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self._number == 0:
            self._number = number
        elif number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
