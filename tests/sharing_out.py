"""Which tests run at the same time, where several workers share them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

_OVER_RANKS = ("tests/faults/", "tests/launch/", "tests/processes/")
"""Folders whose tests start several processes that exchange with one another."""


class ByFile(LoadScopeScheduling):
    """Files go to whichever worker is free, the largest first, and all that run several processes to one of them."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return "over ranks" if _over_ranks(path) else path


@cache
def _over_ranks(path: str) -> bool:
    return path.startswith(_OVER_RANKS) or "over_ranks" in path or "processes.run(" in Path(path).read_text()
