"""What happens in a trial, decided by its seed alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from glm_scale.checkpoint.points import Point
from tests.faults.damage import DAMAGES
from tests.faults.rank import FULL, READ_ONLY, Death, Refusal
from tests.faults.runs import KEPT, SETUPS, STEPS, Setup

SHARD_POINTS = (Point.BEFORE_SHARD, Point.SHARD_WRITTEN, Point.SHARD_SYNCED)
DELETE_POINTS = (Point.BEFORE_DELETE, Point.DELETING, Point.DELETED)


@dataclass(frozen=True)
class Moment:
    """Ranks are killed from outside: during the given part of the time that the start, or else training, takes."""

    part: float
    in_start: bool


@dataclass(frozen=True)
class Kill:
    """One rank dies, or all at once. `grace`: seconds from SIGTERM to SIGKILL for the others, as by the launcher; None:
    nobody stops them, they have to end by themselves. Before all have joined they cannot know of one another, and wait
    as long as the timeout of collectives unless they are stopped.
    """

    when: Death | Moment
    rank: int
    all_die: bool
    grace: float | None


@dataclass(frozen=True)
class Disk:
    """A disk that refuses: it pretends to, or it is a real one that has room for `small` checkpoints."""

    refusal: Refusal | None
    small: float = 0.0


@dataclass(frozen=True)
class Plan:
    """`attempts`: the first start and the next ones, each in a layout of its own; all but the last come to grief.

    `damage`: what is done to the newest checkpoint before the last start; `twice`: it is made by two at once. `clock`:
    seed of a jumping clock.
    """

    seed: str
    every: int
    setups: list[Setup]
    griefs: list[Kill | Disk]
    damage: str | None
    twice: bool
    clock: int | None
    draw: Random = field(repr=False)


def plan(seed: str, number: int, setups: list[Setup] | None = None, disk: Disk | None = None) -> Plan:
    """Trial `number` of a series: the odd ones kill at the named points in turn, the others at random times."""
    draw = Random(f"{seed}-{number}")
    setups = setups or SETUPS
    every = draw.choice([1, 1, 2, 2, 3])
    first = draw.choice(setups)
    griefs: list[Kill | Disk] = []
    if disk is not None:
        griefs.append(disk)
    elif number % 2:
        griefs.append(_kill(draw, first, _death(draw, first, every, list(Point)[number // 2 % len(Point)])))
    else:
        griefs.append(_kill(draw, first, _moment(draw)))
    chosen = [first]
    if draw.random() < 0.2:
        chosen.append(_next(draw, first, setups))
        griefs.append(_kill(draw, chosen[-1], _moment(draw)))
    chosen.append(_next(draw, first, setups))
    damage = draw.choice(list(DAMAGES)) if draw.random() < 0.5 else None
    clock = draw.randrange(1 << 30) if draw.random() < 0.25 else None
    return Plan(f"{seed}-{number}", every, chosen, griefs, damage, draw.random() < 0.15, clock, draw)


def disk_plan(seed: str, number: int, setups: list[Setup] | None = None, root: bool = False) -> Plan:
    """A disk that is full or read-only, for one save or from then on."""
    draw = Random(f"disk {seed}-{number}")
    first = draw.randrange(0, 3)
    last = draw.choice([first, 10**6])
    if root and number % 3 == 0:
        disk = Disk(None, draw.choice([1.5, 2.5]))
    elif number % 2:
        disk = Disk(Refusal(0, READ_ONLY, 0, first, last))
    else:
        # Other ranks than the first have one call that writes, the first has more than eight.
        rank = draw.randrange(2)
        disk = Disk(Refusal(rank, FULL, 0 if rank else draw.randrange(8), first, last))
    return plan(f"disk {seed}", number, setups, disk)


def _next(draw: Random, setup: Setup, setups: list[Setup]) -> Setup:
    """Half of the time the same again, which has to give the same bits."""
    return setup if draw.random() < 0.5 else draw.choice(setups)


def _kill(draw: Random, setup: Setup, when: Death | Moment) -> Kill:
    rank = when.rank if isinstance(when, Death) else draw.randrange(setup.processes)
    joins = isinstance(when, Moment) and when.in_start
    grace = None if draw.random() < 0.3 and not joins else draw.choice([0.0, 0.05, 0.5])
    return Kill(when, rank, draw.random() < 0.3, grace)


def _moment(draw: Random) -> Moment:
    return Moment(draw.random(), in_start=draw.random() < 0.15)


def _death(draw: Random, setup: Setup, every: int, point: Point) -> Death:
    saves = -(-STEPS // every)
    times = saves - KEPT if point in DELETE_POINTS else saves
    rank = draw.randrange(setup.processes) if point in SHARD_POINTS else 0
    return Death(rank, point, 1 + draw.randrange(times))
