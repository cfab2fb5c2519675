"""What was found, in a folder with one file for each task and structure, and what the numbers come to."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from glm_data.files import write_atomically
from glm_scale.errors import UserError
from glm_scale.naming import slug
from glm_scale.tasks.registry import TASKS
from glm_scale.tasks.setting import TIMES, Setting

__all__ = ["Member", "Result", "Results", "Score", "mixers_in", "tasks_in"]


_FAMILIES = ("attention", "local", "ssm", "window", "dense", "offsets", "lattice")
"""The structures as the paper has them in its tables; others follow."""


class Member(BaseModel):
    """One model. loss: its last in training, in nats an answer, None if it was not finite; accuracy: the share of right
    answers at each of `TIMES` the length."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int
    rate: float
    loss: float | None
    accuracy: tuple[float, ...] = Field(min_length=len(TIMES), max_length=len(TIMES))


@dataclass(frozen=True)
class Score:
    """Accuracies over seeds at one learning rate, as shares: their mean, and their standard deviation if there are
    several."""

    rate: float
    mean: float
    spread: float | None

    def __str__(self) -> str:
        """In percent, "99.8 ± 0.1"."""
        return f"{100 * self.mean:.1f}" + ("" if self.spread is None else f" ± {100 * self.spread:.1f}")


class Result(BaseModel):
    """All models of one structure on one task. seconds: that training and asking took; device: where."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    mixer: str
    setting: Setting
    device: str
    seconds: float
    members: tuple[Member, ...] = Field(min_length=1)

    def scores(self, times: int = 1) -> list[Score]:
        """By learning rate, the lowest first; times: the length, one of `TIMES`."""
        place = TIMES.index(times)
        found = []
        for rate in sorted({member.rate for member in self.members}):
            shares = [member.accuracy[place] for member in self.members if member.rate == rate]
            spread = statistics.stdev(shares) if len(shares) > 1 else None
            found.append(Score(rate, statistics.fmean(shares), spread))
        return found

    @property
    def order(self) -> tuple[tuple[int, str], tuple[int, str]]:
        """By which results are sorted: by task, then by structure, in the order of the paper."""
        return _place(self.task, tuple(TASKS)), self.mixer_order

    @property
    def mixer_order(self) -> tuple[int, str]:
        """By which structures are sorted."""
        return _place(self.mixer, _FAMILIES)

    def best(self, times: int = 1) -> Score:
        """At the rate that is best at the length of training, whatever the length `times` that is asked for."""
        rate = max(self.scores(), key=lambda score: score.mean).rate
        return next(score for score in self.scores(times) if score.rate == rate)


class Results:
    """The files of a folder, `<task>--<mixer>.json`. All are of one setting."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, task: str, mixer: str) -> Path:
        """The file of a task and a structure, by their canonical spellings."""
        return self.folder / f"{slug(task)}--{slug(mixer)}.json"

    def add(self, result: Result) -> None:
        """Keep a result; it is on the disk when this returns."""
        write_atomically(self.path(result.task, result.mixer), result.model_dump_json(indent=1) + "\n")

    def read(self) -> list[Result]:
        """All, by task and structure.

        Raises UserError for a file that holds something else, and for results of several settings.
        """
        found = [_read(path) for path in sorted(self.folder.glob("*--*.json"))]
        for result in found:
            if result.setting != found[0].setting:
                raise UserError(
                    f"{self.folder} holds results of several settings: {result.task} {result.mixer} has "
                    f"{difference(result.setting, found[0].setting)}; keep those of each setting in a folder of its own"
                )
        return sorted(found, key=lambda result: result.order)

    def require_setting(self, setting: Setting) -> list[Result]:
        """What there is already. Raises UserError if it is of another setting."""
        found = self.read()
        if found and found[0].setting != setting:
            raise UserError(
                f"--output {self.folder} holds results of another setting, "
                f"{difference(found[0].setting, setting)}; name another folder, or give the options that these had"
            )
        return found


def difference(ours: Setting, theirs: Setting) -> str:
    """In words, what of a setting is other: "steps 500 and not 5000"."""
    one, other = ours.model_dump(), theirs.model_dump()
    return ", ".join(f"{key} {_shown(one[key])} and not {_shown(other[key])}" for key in one if one[key] != other[key])


def _shown(value: object) -> str:
    if isinstance(value, Iterable):
        return ",".join(f"{rate:g}" for rate in value)
    return str(value)


def _read(path: Path) -> Result:
    try:
        return Result.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        reason = f"{where}: {problem['msg']}" if where else problem["msg"]
    except (OSError, ValueError) as error:
        reason = str(error)
    raise UserError(f"{path} holds no result of `glm-scale tasks run` ({reason}); remove it, and it is made again")


def _place(spelling: str, words: tuple[str, ...]) -> tuple[int, str]:
    head = spelling.partition(":")[0]
    return (words.index(head) if head in words else len(words), spelling)


def tasks_in(results: Sequence[Result]) -> list[str]:
    """The tasks of these, each once, in their order."""
    return list(dict.fromkeys(result.task for result in results))


def mixers_in(results: Sequence[Result]) -> list[str]:
    """The structures of these, each once, in the order of the paper's tables; not every task need have each."""
    return list(dict.fromkeys(result.mixer for result in sorted(results, key=lambda result: result.mixer_order)))
