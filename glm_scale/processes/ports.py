"""A port for processes that are to meet on this machine."""

from __future__ import annotations

import socket

__all__ = ["reserved_port"]


def reserved_port() -> socket.socket:
    """A socket whose port nobody else is given until it is closed, though whoever names the port can bind it.

    It is bound but not listened to. A port that was only found free might be the near end of a stranger's connection
    by the time a server wants it.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("", 0))
    return reserved
