"""A way to a server that can be cut: connections are refused, or end in the middle of an answer."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Way:
    """Passes on what comes to `port`."""

    def __init__(self, target: tuple[str, int]):
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._budget: int | None = None
        self._refusals: int | None = None
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, budget: int, refusals: int | None = None) -> None:
        """Let as many bytes of answers pass; then refuse so many connections, or all until it is mended."""
        with self._lock:
            self._budget, self._refusals = budget, refusals

    def mend(self) -> None:
        with self._lock:
            self._budget = self._refusals = None

    def close(self) -> None:
        self._listener.close()
        self.cut_after(0)
        self._hang_up()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._refuses():
                    client.close()
                    continue
                server = socket.create_connection(self._target)
                self._open |= {client, server}
                for source, sink, answers in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._pass_on, args=(source, sink, answers), daemon=True).start()

    def _refuses(self) -> bool:
        with self._lock:
            if self._budget != 0:
                return False
            if self._refusals == 0:
                self._budget = self._refusals = None
                return False
            if self._refusals is not None:
                self._refusals -= 1
            return True

    def _pass_on(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with suppress(OSError), source, sink:
            while data := source.recv(1 << 16):
                passes = self._spend(len(data)) if answers else len(data)
                sink.sendall(data[:passes])
                if passes < len(data):
                    self._hang_up()
                    break
        self._open -= {source, sink}

    def _spend(self, size: int) -> int:
        """How many of so many bytes may pass; fewer than all: it is cut."""
        with self._lock:
            if self._budget is None:
                return size
            passes = min(size, self._budget)
            self._budget -= passes
            return passes

    def _hang_up(self) -> None:
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
