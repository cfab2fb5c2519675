"""Signals that end a command whose work is done by processes that it has started: these end first, then it does."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

__all__ = ["ENDING", "handled"]

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def handled(handler: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Let `handler` have the signals `ENDING`. What is ignored, as SIGHUP under nohup, stays so, for what is started as
    well. Only for the main thread, which runs the handler."""

    def handle(number: int, frame: FrameType | None) -> None:
        handler(signal.Signals(number))

    heeded = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, handle) for number in heeded}
    try:
        yield
    finally:
        for number, earlier in previous.items():
            signal.signal(number, earlier)
