"""SIGTERM and Ctrl-C as a request that the loop reads at the next step boundary."""

import signal
from types import FrameType, TracebackType
from typing import Self

__all__ = ["StopRequest"]


class StopRequest:
    """While active, the first SIGTERM or SIGINT sets `signal`; a second one ends the process at once.

    Outside the main thread, where Python allows no handlers, it is never set.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, signal.Handlers | None] = {}

    @property
    def name(self) -> str:
        """ "SIGTERM" or "SIGINT"; empty if there was no request."""
        return self.signal.name if self.signal else ""

    def __bool__(self) -> bool:
        return self.signal is not None

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
