"""The points of a save and of a deletion at which a process may die, by name, so that tests can let it die there."""

from collections.abc import Callable
from enum import StrEnum

__all__ = ["Point", "Reached", "unwatched"]


class Point(StrEnum):
    """In the order of a save; the last three are passed for every checkpoint that is deleted."""

    STAGING_MADE = "staging made"
    BEFORE_SHARD = "before shard"
    SHARD_WRITTEN = "shard written"
    SHARD_SYNCED = "shard synced"
    BEFORE_MANIFEST = "before manifest"
    MANIFEST_WRITTEN = "manifest written"
    BEFORE_RENAME = "before rename"
    RENAMED = "renamed"
    BEFORE_MARKER = "before marker"
    COMMITTED = "committed"
    BEFORE_DELETE = "before delete"
    DELETING = "deleting"
    DELETED = "deleted"


Reached = Callable[[str], None]
"""Is told the point that has been reached."""


def unwatched(point: str) -> None:
    """Nobody wants to know."""
