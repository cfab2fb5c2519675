"""Trains the runs of a ladder.

Runs of one model, which differ in budget, seed or rate alone, are trained by one process, so that starting is paid
once (`together`); each of them is what `glm-scale train` with its overrides does. A run that fails takes nothing along
but those that begin from it. Runs that are finished are left alone, so a ladder can be stopped and started again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from queue import SimpleQueue
from typing import Literal

from glm_scale.config import layout_of
from glm_scale.ladder.crew import STOPPED, Crew, gpus_here, share
from glm_scale.ladder.members import Ladder, Member, is_finished
from glm_scale.processes import handled

__all__ = ["RunOutcome", "climb", "models_at_once"]

_SOME_FAILED = 1

RunOutcome = Literal["finished", "finished before", "failed", "stopped"]


def climb(ladder: Ladder, concurrency: int = 1) -> Iterator[tuple[Member, RunOutcome]]:
    """Train the runs, those of so many models at a time, and say what became of each.

    A run that fails is reported and the next one started. When the user stops one, the others are stopped, too, and so
    are those that have not begun.
    """
    models, crew = _models(ladder), Crew(models_at_once(ladder, concurrency))
    told: SimpleQueue[tuple[Member, RunOutcome] | None] = SimpleQueue()
    with handled(crew.forward), ThreadPoolExecutor(crew.size) as threads:
        work = [threads.submit(_climb_model, ladder, members, crew, told.put) for members in models]
        try:
            for _ in models:
                yield from iter(told.get, None)
        finally:
            crew.ended = True
    for done in work:
        done.result()


def models_at_once(ladder: Ladder, concurrency: int) -> int:
    """Of how many models runs train side by side where so many may."""
    return min(concurrency, len(_models(ladder)))


def _models(ladder: Ladder) -> list[list[Member]]:
    """The runs, those of one model together: some of them may begin from others."""
    return [list(alike) for _, alike in groupby(ladder.members, _model)]


def _model(member: Member) -> tuple[Hashable, ...]:
    """The same for consecutive runs of one model."""
    config = member.config
    return config.model, config.data.sequence_length, config.training.micro_batch, config.training.batch_tokens


def _climb_model(
    ladder: Ladder, members: Sequence[Member], crew: Crew, tell: Callable[[tuple[Member, RunOutcome] | None], None]
) -> None:
    """Train the runs of one model, tell of each, and None at last."""
    try:
        with crew.place() as place:
            left = []
            for member in members:
                if is_finished(member):
                    tell((member, "finished before"))
                else:
                    left.append(member)
            for found in _train(ladder, left, crew, place):
                tell(found)
    except BaseException:
        crew.ended = True
        raise
    finally:
        tell(None)


def _train(ladder: Ladder, members: Sequence[Member], crew: Crew, place: int) -> Iterator[tuple[Member, RunOutcome]]:
    """If the process dies, the run that it was at has failed, and another one goes on with the next."""
    left = list(members)
    while left:
        config, ranks = left[0].config, layout_of(left[0].config).processes
        at_once = left if ranks == 1 else left[:1]
        gpus = [] if config.training.device == "cpu" else gpus_here()
        code = crew.run(_command(ladder, at_once), share(place, crew.size, ranks, gpus))
        for member in tuple(at_once):
            finished = is_finished(member)
            if not finished and code in STOPPED:
                yield from ((unfinished, "stopped") for unfinished in left)
                return
            left.remove(member)
            yield member, "finished" if finished else "failed"
            if not finished and code not in (0, _SOME_FAILED) and not _has_failed(member):
                break


def _command(ladder: Ladder, members: Sequence[Member]) -> list[str]:
    if layout_of(members[0].config).processes > 1:
        (member,) = members
        return [sys.executable, "-m", "glm_scale.cli.app", "train", str(ladder.path), *member.overrides]
    names = [member.name for member in members]
    return [sys.executable, "-m", "glm_scale.ladder.together", str(ladder.path), *ladder.overrides, "--", *names]


def _has_failed(member: Member) -> bool:
    """Whether it has said so itself: its process went on to the next."""
    return member.run.exists() and member.run.status() == "failed"
