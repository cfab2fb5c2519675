"""Signals in the process of the tests, which `nohup`, or a script that does not wait, may have told to ignore them."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def handled(number: signal.Signals, *, ignored: bool = False) -> Iterator[None]:
    """A signal as Python has it at its start where nobody asked to ignore it, or where somebody did."""
    usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, signal.SIG_IGN if ignored else usual)
    try:
        yield
    finally:
        signal.signal(number, before)
