"""What ranks died of: their last words, and which of several deaths is the cause of the others."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["LAST_WORDS", "Death", "cause_of", "last_words"]

# torch puts the rank before each line of a traceback. The command line prints "error: …" for what the user can mend.
LAST_WORDS = re.compile(
    r"^(?:\[rank\d+\]: ?)?(?:Traceback \(most recent call last\):|Fatal Python error: |error: )", re.MULTILINE
)
_CHAINED = re.compile(
    r"(?:The above exception was the direct cause of the following exception"
    r"|During handling of the above exception, another exception occurred):\s*(?:\[rank\d+\]:\s*)*$"
)
_LINES = 20

# How gloo, NCCL and torch's store say that another rank has gone.
_OTHERS_FAULT = re.compile(
    r"closed by peer|reset by peer|closed connection|connection refused|broken pipe|connection was likely closed"
    r"|pair closure|remote process exited|ncclRemoteError|DistNetworkError|DistStoreError|failed to recv"
    r"|timed out (?:waiting|after)|socket timeout|gloo.*timeout",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Death:
    """How a rank ended: `code` as subprocess gives it, negative for signals; `words` is what it wrote at last."""

    rank: int
    code: int
    words: str = ""

    @property
    def exit_code(self) -> int:
        """As a shell has it: 128 + number for signals."""
        return 128 - self.code if self.code < 0 else self.code

    @property
    def is_consequence(self) -> bool:
        """Whether the rank says that it lost another one."""
        return bool(_OTHERS_FAULT.search(self.words))

    def __str__(self) -> str:
        if self.code >= 0:
            return f"rank {self.rank} failed with exit code {self.code}"
        hint = "; the system does that when memory runs out" if self.code == -signal.SIGKILL else ""
        return f"rank {self.rank} was killed by {signal.Signals(-self.code).name}{hint}"


def cause_of(deaths: Iterable[Death]) -> Death:
    """The first of `deaths`, in order of time, that is not the consequence of another; else the first."""
    return min(deaths, key=lambda death: death.is_consequence)


def last_words(text: str) -> str:
    """The last traceback with those that led to it, or error message, to the end of `text`; else its last lines."""
    starts = [match.start() for match in LAST_WORDS.finditer(text)]
    if not starts:
        return "\n".join(text.rstrip().splitlines()[-_LINES:])
    start = starts.pop()
    while starts and _CHAINED.search(text, 0, start):
        start = starts.pop()
    return text[start:].rstrip()
