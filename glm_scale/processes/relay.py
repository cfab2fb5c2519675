"""What rank 0 writes to stderr, on its way to the terminal."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from pathlib import Path

from glm_scale.processes.failures import LAST_WORDS

__all__ = ["Relay"]

_HOLD = 10.0
"""Seconds: longer than it takes to see whether another rank failed before."""


class Relay(threading.Thread):
    """Copies the pipe `source` to `log` and to stderr, but keeps back a traceback or an error for some seconds.

    If the rank ends of it, the launcher decides whether to show it: it may be the mere consequence of another's end.
    """

    def __init__(self, source: int, log: Path) -> None:
        super().__init__(name="stderr of rank 0", daemon=True)
        self._source = source
        self._log = log
        self._held = b""
        self._since = 0.0
        self._muted = False
        self.start()

    def run(self) -> None:
        with self._log.open("ab", buffering=0) as log, os.fdopen(self._source, "rb", buffering=0):
            while True:
                if select.select([self._source], [], [], 1.0)[0]:
                    data = os.read(self._source, 1 << 16)
                    if not data:
                        return
                    # Rank 0 would wait for ever for a relay that ends here.
                    with contextlib.suppress(OSError):
                        log.write(data)
                    self._pass(data)
                if self._held and time.monotonic() - self._since > _HOLD:
                    self.show()

    def _pass(self, data: bytes) -> None:
        if self._muted:
            return
        if not self._held:
            # Bytes are searched as Latin-1, which gives every byte one character.
            start = LAST_WORDS.search(data.decode("latin-1"))
            at = start.start() if start else len(data)
            _write(data[:at])
            data, self._since = data[at:], time.monotonic()
        self._held += data

    def finish(self) -> None:
        """Wait until all is read, but not for processes that the rank has left behind, which hold the pipe too."""
        self.join(1.0)

    def show(self) -> None:
        """Write what was kept back."""
        held, self._held = self._held, b""
        _write(held)

    def mute(self) -> bool:
        """From now on write to the log alone. Whether something was kept back, which is not shown then."""
        held, self._held, self._muted = self._held, b"", True
        return bool(held)


def _write(data: bytes) -> None:
    """To stderr, as far as it takes it: what cannot be shown is in the log."""
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(2, data) :]
