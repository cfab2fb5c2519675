"""A way to a server that can be cut: connections are refused, or end in the middle of an answer."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Way:
    """Passes on what comes to `port`.

    Attributes:
        budget: bytes of answers until it is cut; None: as many as there are.
    """

    def __init__(self, target: tuple[str, int]):
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.budget: int | None = None
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """From now on nobody answers, until `budget` is None again."""
        self.budget = 0
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.budget == 0:
                    client.close()
                    continue
                server = socket.create_connection(self._target)
                self._open |= {client, server}
                for source, sink, answers in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._pass_on, args=(source, sink, answers), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with suppress(OSError), source, sink:
            while data := source.recv(1 << 16):
                if answers and self.budget is not None:
                    data = data[: self.budget]
                    self.budget -= len(data)
                sink.sendall(data)
                if answers and self.budget == 0:
                    return self.cut()
        self._open -= {source, sink}
        return None
