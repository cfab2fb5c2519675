"""What a check is asked, and what it has found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["Asked", "Check", "Finding", "State"]

State = Literal["ok", "warning", "problem", "not applicable"]


@dataclass(frozen=True)
class Asked:
    """Where runs are to lie and be tracked, None: where they would be tracked now if they were told nothing.

    `patience`: seconds that a server or SLURM has to answer.
    """

    folder: Path = Path("runs")
    tracking_uri: str | None = None
    patience: float = 5.0


@dataclass(frozen=True)
class Finding:
    """One line for the user. A problem ends runs or spoils them, a warning says what may.

    `way_out`: what to do about it; empty if there is nothing to be done.
    """

    name: str
    state: State
    says: str
    way_out: str = ""


Check = Callable[[Asked], Finding]
