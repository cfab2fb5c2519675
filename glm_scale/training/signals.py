"""SIGTERM and Ctrl-C as a request that the loop reads at the next step boundary."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

__all__ = ["StopRequest"]


def _alone(number: int) -> int:
    return number


class StopRequest:
    """While active, the first SIGTERM or SIGINT sets `signal`; a second one ends the process at once.

    Outside the main thread, where Python allows no handlers, it is never set. Looking at it is a vote of all ranks:
    `largest` gives the largest of the numbers that they bring, and a request to one stops all.
    """

    def __init__(self, largest: Callable[[int], int] = _alone) -> None:
        self.signal: signal.Signals | None = None
        self._largest = largest
        self._previous: dict[signal.Signals, signal.Handlers | None] = {}

    @property
    def name(self) -> str:
        """ "SIGTERM" or "SIGINT"; empty if there was no request."""
        return self.signal.name if self.signal else ""

    def __bool__(self) -> bool:
        number = self._largest(self.signal or 0)
        if number:
            self.signal = signal.Signals(number)
        # One that arrived since the vote waits for the next one.
        return number != 0

    def __enter__(self) -> Self:
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._request)  # type: ignore[assignment]
        except ValueError:
            self._previous.clear()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.signal = signal.Signals(number)
