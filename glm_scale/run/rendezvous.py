"""How the processes of a run find each other: every one can be interrupted meanwhile, and says whom it waits for.

torch's own rendezvous waits inside of C++, where no signal reaches it. Here a rank goes in short steps to the store of
rank 0 and leaves its number there, and only when all have come the process group is made.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

from torch import distributed as dist

from glm_scale.errors import PassingError, UserError
from glm_scale.processes.diagnosis import join_ranks
from glm_scale.processes.environment import Place
from glm_scale.training.signals import StopRequest

__all__ = ["StoppedWaiting", "meet"]

_SHORTEST, _LONGEST = 0.002, 0.1
"""Seconds between two looks: first, and when it takes long."""
_FIRST_WORD, _NEXT_WORD = 5.0, 30.0
"""Seconds until a rank says whom it waits for, and until it says so again."""
_UNKNOWN_NAME = 10.0
"""Seconds for a name to become known: that of a machine that has just been started may need some."""
_EVERYONE = "everyone"


class StoppedWaiting(Exception):  # noqa: N818  # nothing went wrong
    """The process was asked to stop before all had come; see StopRequest for the attributes."""

    def __init__(self, stop: StopRequest) -> None:
        super().__init__(stop.reason)
        self.reason = stop.reason
        self.exit_code = stop.exit_code


def meet(
    place: Place,
    patience: float,
    earlier: list[int],
    tell: Callable[[str], None] | None = None,
    first_word: float = _FIRST_WORD,
    unknown_name: float = _UNKNOWN_NAME,
) -> dist.Store:
    """Wait until all ranks are there, for `patience` seconds, and return the store that they share.

    `earlier`: see StopRequest; a signal that comes too late to be heeded here is added. `tell` shows a line to the
    user; None writes it to stderr. `first_word`: seconds until it is told whom this rank waits for. `unknown_name`:
    seconds for MASTER_ADDR to become known.

    Raises:
        StoppedWaiting: a signal came.
        PassingError: somebody did not come in time.
        UserError: the address of rank 0 is not known, or its port is taken.
    """
    with StopRequest(earlier=earlier) as stop:
        store = _Meeting(place, patience, stop, tell or _say, first_word, unknown_name).hold()
    if stop.number:
        earlier.append(stop.number)
    return store


class _Meeting:
    def __init__(
        self,
        place: Place,
        patience: float,
        stop: StopRequest,
        tell: Callable[[str], None],
        first_word: float,
        unknown_name: float,
    ) -> None:
        self.place = place
        self.stop = stop
        self.tell = tell
        self.unknown_name = unknown_name
        self.began = time.monotonic()
        self.patience = patience
        self.next_word = first_word
        self.where = f"{place.address}:{place.port} (MASTER_ADDR, MASTER_PORT)"

    def hold(self) -> dist.Store:
        place = self.place
        store = self.store()
        store.set(_key(place.rank), "")
        if place.rank == 0:
            for rank in range(place.size):
                self.wait_for(store, _key(rank), lambda: self.missing(store))
            store.set(_EVERYONE, "")
        else:
            self.wait_for(store, _EVERYONE, lambda: self.missing(store))
        return store

    def store(self) -> dist.Store:
        """Rank 0 serves it, unless the launcher does."""
        place = self.place
        agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        if place.rank > 0 or agent:
            self.reach()
        try:
            store: dist.Store = dist.TCPStore(
                place.address,
                place.port,
                place.size,
                is_master=place.rank == 0 and not agent,
                timeout=timedelta(seconds=max(self.patience, 1.0)),
                wait_for_workers=False,
                multi_tenant=not agent,
            )
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"rank {place.rank} cannot meet the others at {self.where}: {reason}; MASTER_ADDR has to be the "
                "machine of rank 0, and MASTER_PORT a port there that nobody else uses"
            ) from error
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if agent else "0"
        return dist.PrefixStore(f"glm-scale/{attempt}", store)

    def reach(self) -> None:
        """Return as soon as somebody answers where rank 0 is to be."""
        pause = _SHORTEST
        while True:
            try:
                socket.create_connection((self.place.address, self.place.port), timeout=1.0).close()
                return
            except (socket.gaierror, UnicodeError) as error:
                problem = f"the name {self.place.address} is not known"
                if time.monotonic() - self.began > self.unknown_name:
                    raise UserError(
                        f"rank {self.place.rank} cannot find rank 0: MASTER_ADDR is {self.place.address!r}, which is "
                        f"no name that this machine knows ({error}); set it to the name or address of rank 0's machine"
                    ) from error
            except OSError as error:
                problem = error.strerror or str(error)
            self.pause(lambda: [0], problem)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST)

    def wait_for(self, store: dist.Store, key: str, missing: Callable[[], Sequence[int]]) -> None:
        pause = _SHORTEST
        try:
            # Not by the store's own `wait`, which writes warnings whenever its time is over.
            while not store.check([key]):
                self.pause(missing)
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST)
        except dist.DistError as error:
            raise PassingError(f"rank {self.place.rank} has lost rank 0 at {self.where}") from error

    def missing(self, store: dist.Store) -> list[int]:
        return [rank for rank in range(self.place.size) if not store.check([_key(rank)])]

    def pause(self, missing: Callable[[], Sequence[int]], problem: str = "") -> None:
        """Between two tries: heed signals, and speak when it is time."""
        if self.stop:
            self.tell(f"stopped by {self.stop.reason} while waiting for the other ranks; nothing has begun yet")
            raise StoppedWaiting(self.stop)
        waited = time.monotonic() - self.began
        if waited < min(self.next_word, self.patience):
            return
        line = f"{join_ranks(missing())} of {self.place.size} at {self.where}" + (f": {problem}" if problem else "")
        if waited >= self.patience:
            raise PassingError(f"rank {self.place.rank} has waited {waited:.0f} s in vain for {line}")
        self.next_word = waited + _NEXT_WORD
        self.tell(f"rank {self.place.rank} is waiting for {line}, {waited:.0f} s")


def _key(rank: int) -> str:
    return f"rank-{rank}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
