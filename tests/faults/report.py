"""What a series of trials has come to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.faults.plan import Kill, Moment


@dataclass
class Report:
    """`survived`: seconds that ranks took to end by themselves after another had died."""

    trials: int = 0
    refused: int = 0
    twice: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    inside: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    too_late: int = 0
    survived: list[float] = field(default_factory=list)
    damaged: Counter[str] = field(default_factory=Counter)

    def killed(self, kill: Kill, inside: bool, survived: float | None) -> None:
        manner = "at random times" if isinstance(kill.when, Moment) else "at named points"
        self.kills[manner] += 1
        self.inside[manner] += inside
        if not isinstance(kill.when, Moment):
            self.points[kill.when.point] += 1
        if survived is not None:
            self.survived.append(survived)

    def missed(self, kill: Kill) -> None:
        """The run had ended before."""
        self.too_late += 1

    @property
    def share_inside(self) -> float:
        return self.inside.total() / max(1, self.kills.total())

    def __str__(self) -> str:
        lines = [
            f"{self.trials} trials, {self.kills.total()} kills, {self.inside.total()} of them inside a save "
            f"({self.share_inside:.0%}); {self.too_late} came too late",
            *(f"  {manner}: {count}, {self.inside[manner]} inside a save" for manner, count in self.kills.items()),
            "  by point: " + ", ".join(f"{point} {count}" for point, count in self.points.items()),
            "  damage: " + ", ".join(f"{damage} {count}" for damage, count in self.damaged.items()),
            f"  full or read-only disks: {self.refused}; two starts at once: {self.twice}",
        ]
        if self.survived:
            lines.append(
                f"  {len(self.survived)} times the others ended by themselves, after {max(self.survived):.1f} s at most"
            )
        return "\n".join(lines)
