"""Which of the ranks that hang is the odd one out, told from their reports alone."""

from __future__ import annotations

import sysconfig
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from glm_scale.processes.reports import Frame, Report, render_stack

__all__ = ["Diagnosis", "describe", "diagnose", "join_ranks", "place"]

V = TypeVar("V", bound=Hashable)

_OURS = Path(__file__).parents[1]
_NOT_ANYONES = (f"{sysconfig.get_path('stdlib')}/", f"{sysconfig.get_path('purelib')}/torch/", "<")


@dataclass(frozen=True)
class Diagnosis:
    """The ranks to look at first, none if they are all alike, and the reason, a sentence without an end."""

    ranks: tuple[int, ...]
    reason: str


def diagnose(reports: Mapping[int, Report], silent: Mapping[int, str]) -> Diagnosis:
    """Name the odd ranks. `silent` says why ranks gave no report of their own ("has ended"): they are the odd ones.

    Of ranks that did report, those count whose collectives the others wait for; where all have started the same
    number, those that stand elsewhere than most.
    """
    if silent:
        return Diagnosis(tuple(sorted(silent)), "; ".join(_silence(rank, silent, reports) for rank in sorted(silent)))
    return _by_collectives(reports) or _by_place(reports)


def _silence(rank: int, silent: Mapping[int, str], reports: Mapping[int, Report]) -> str:
    known = reports.get(rank)
    return f"rank {rank} {silent[rank]}" + (f" and stands at {place(known.stack)}" if known and known.stack else "")


def _by_collectives(reports: Mapping[int, Report]) -> Diagnosis | None:
    """Who has started more collectives of a group waits for those who have started fewer."""
    groups: dict[tuple[str, tuple[int, ...]], dict[int, int]] = defaultdict(dict)
    for rank, report in sorted(reports.items()):
        for group in report.groups:
            if group.started is not None:
                groups[group.name, group.ranks][rank] = group.started
    waits: dict[int, set[int]] = {rank: set() for rank in reports}
    for started in groups.values():
        for rank, count in started.items():
            waits[rank] |= {other for other, its in started.items() if its < count}
    awaited = set().union(*waits.values())
    if not awaited:
        return None
    # Others may wait for a rank that itself waits in another group: the cause is who waits for nobody.
    causes = {rank for rank in awaited if not waits[rank]}
    if not causes:
        circle = _circle(waits, min(awaited))
        return Diagnosis(circle, f"{join_ranks(circle)} wait for each other, in groups that they entered out of order")
    behind = {
        group: {rank for rank, count in started.items() if count < max(started.values())}
        for group, started in groups.items()
    }
    # The group that tells most: one in which nobody is behind because of another group; of those, the largest.
    name, members = max(
        (group for group in groups if behind[group] & causes),
        key=lambda group: (-len(behind[group] - causes), len(groups[group])),
    )
    started = groups[name, members]
    usual, votes = Counter(started.values()).most_common(1)[0]
    odd = {rank for rank, count in started.items() if count != usual}
    if 2 * votes <= len(started):
        odd = {rank for rank, count in started.items() if count == min(started.values())}
    odd = odd & causes or odd
    label = name if len(members) == len(reports) else f"{name} of {join_ranks(members)}"
    first, *others = _alike(started, odd)
    told = (
        f"{join_ranks(first[1])} {_has(first[1])} started {first[0]} collective{'s' * (first[0] != 1)} in group {label}"
    )
    for count, ranks in others:
        who = "the others" if len(others) == 1 and len(ranks) > 1 else join_ranks(ranks)
        told += f", {who} {count}"
    return Diagnosis(tuple(sorted(odd)), told)


def _alike(values: Mapping[int, V], odd: Iterable[int]) -> list[tuple[V, list[int]]]:
    """Ranks by their value, those of the odd ones first."""
    ranks: dict[V, list[int]] = {}
    for rank in sorted(values, key=lambda rank: (rank not in odd, rank)):
        ranks.setdefault(values[rank], []).append(rank)
    return list(ranks.items())


def _circle(waits: Mapping[int, set[int]], start: int) -> tuple[int, ...]:
    path = [start]
    while (after := min(waits[path[-1]])) not in path:
        path.append(after)
    return tuple(sorted(path[path.index(after) :]))


def _by_place(reports: Mapping[int, Report]) -> Diagnosis:
    places = {rank: place(report.stack) for rank, report in sorted(reports.items())}
    usual, votes = Counter(places.values()).most_common(1)[0]
    if votes == len(places):
        who = f"all {len(places)} ranks stand" if len(places) > 1 else f"rank {min(places)} stands"
        return Diagnosis((), f"{who} at {usual}")
    majority = 2 * votes > len(places)
    odd = tuple(rank for rank, its in places.items() if its != usual) if majority else ()
    told = [f"{join_ranks(ranks)} {_stand(ranks)} at {its}" for its, ranks in _alike(places, odd)]
    if majority:
        told[-1] = f"the others at {usual}" if votes > 1 else told[-1]
    return Diagnosis(odd, ", ".join(told))


def place(stack: Iterable[Frame]) -> str:
    """Where a thread is, as its author sees it: innermost in this package, or else outside of torch and Python."""
    frames = list(stack)
    ours = [frame for frame in frames if Path(frame.file).is_relative_to(_OURS)]
    theirs = [frame for frame in frames if not frame.file.startswith(_NOT_ANYONES)]
    return str((ours or theirs or frames)[-1]) if frames else "an unknown place"


def describe(diagnosis: Diagnosis, reports: Mapping[int, Report]) -> str:
    """The diagnosis and the stacks of all ranks, those that are the same once."""
    named = f"look at {join_ranks(diagnosis.ranks)} first: " if diagnosis.ranks else "no rank stands out: "
    lines = [named + diagnosis.reason]
    for stack, ranks in _alike({rank: report.stack for rank, report in reports.items()}, diagnosis.ranks):
        beats = dict.fromkeys(reports[rank].heartbeat for rank in ranks)
        lines += ["", f"{join_ranks(ranks)}, last sign of life {' or '.join(beats)}:", render_stack(stack)]
    return "\n".join(lines)


def join_ranks(ranks: Iterable[int]) -> str:
    """ "rank 2" or "ranks 0, 1, 3"."""
    numbers = sorted(ranks)
    return f"rank{'s' if len(numbers) != 1 else ''} {', '.join(map(str, numbers))}"


def _has(ranks: list[int]) -> str:
    return "has" if len(ranks) == 1 else "have"


def _stand(ranks: list[int]) -> str:
    return "stands" if len(ranks) == 1 else "stand"
