"""Trains the runs of a ladder.

Runs of one model, which differ in budget, seed or rate alone, are trained by one process, so that starting is paid
once (`together`); each of them is what `glm-scale train` with its overrides does. A run that fails takes nothing along
but those that begin from it. Runs that are finished are left alone, so a ladder can be stopped and started again.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Hashable, Iterator, Sequence
from itertools import groupby
from types import FrameType
from typing import Literal

from glm_scale.config import layout_of
from glm_scale.ladder.members import Ladder, Member, is_finished
from glm_scale.training.signals import REQUEUE_EXIT_CODE

__all__ = ["RunOutcome", "climb"]

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a ladder: the run that trains saves and ends first."""

_STOPPED = {REQUEUE_EXIT_CODE, *(-number for number in _FORWARDED), *(128 + number for number in _FORWARDED)}
_SOME_FAILED = 1

RunOutcome = Literal["finished", "finished before", "failed", "stopped"]


def climb(ladder: Ladder) -> Iterator[tuple[Member, RunOutcome]]:
    """Train the runs one after the other, and say what became of each.

    A run that fails is reported and the next one started; one that the user stopped ends the ladder.
    """
    for _, alike in groupby(ladder.members, _trained_together):
        members = list(alike)
        before = {member.name for member in members if is_finished(member)}
        left = [member for member in members if member.name not in before]
        outcomes = dict(_train(ladder, left))
        for member in members:
            if member.name in before:
                yield member, "finished before"
            elif member.name in outcomes:
                yield member, outcomes[member.name]
        if "stopped" in outcomes.values():
            return


def _trained_together(member: Member) -> tuple[Hashable, ...]:
    """The same for consecutive runs that share a process."""
    config = member.config
    if layout_of(config).processes > 1:
        return (member.name,)
    return config.model, config.data.sequence_length, config.training.micro_batch, config.training.batch_tokens


def _train(ladder: Ladder, members: Sequence[Member]) -> Iterator[tuple[str, RunOutcome]]:
    """By name. If the process dies, the run that it was at has failed, and another one goes on with the next."""
    left = list(members)
    while left:
        code = _run(_command(ladder, left))
        stopped = code in _STOPPED
        while left:
            member = left.pop(0)
            finished = is_finished(member)
            if not finished and stopped:
                yield member.name, "stopped"
                return
            yield member.name, "finished" if finished else "failed"
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


def _run(command: list[str]) -> int:
    """Run a command on our terminal. Signals that would end us are its business: it saves and ends, then we do."""
    process = subprocess.Popen(command)

    def forward(number: int, frame: FrameType | None) -> None:
        # The terminal sends Ctrl-C to both of us; anything else reaches us alone.
        if number != signal.SIGINT:
            process.send_signal(number)

    # What is ignored, as SIGHUP under nohup, stays so, for the command as well.
    heeded = [number for number in _FORWARDED if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, forward) for number in heeded}
    try:
        return process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
