"""How checkpoints lie in their folder, and how to find them there without touching anything.

    step-00000012/              a checkpoint, if it has its marker
    step-00000012.2/            the same step saved again after the run had gone back: counts instead of the other
    step-00000012.damaged/      was found damaged and set aside; nothing reads or deletes it
    step-00000012.diverged/     likewise, of a stretch from which the run has gone back
    .step-00000016.writing/     is being written, or was when its writer died
    .step-00000004.deleting/    is being deleted, likewise

What is newer is decided by step and number alone, never by a clock.
"""

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from glm_scale.checkpoint.manifest import MANIFEST, MARKER, PENDING
from glm_scale.checkpoint.reading import Check, Checkpoint, DamagedError, GoneError, UnfinishedError
from glm_scale.errors import UserError

__all__ = [
    "Aside", "CheckpointFolder", "aside_place", "deleting_place", "find_checkpoint", "is_checkpoint", "leftovers",
    "newest_whole", "next_place", "places", "set_aside", "writing_place",
]  # fmt: skip

Aside = Literal["damaged", "diverged"]
"""Why a checkpoint does not count any more."""

_NAME = re.compile(r"step-(\d{8,})(?:\.(\d+))?")


@dataclass(frozen=True, order=True)
class CheckpointFolder:
    """A folder that carries the name of a checkpoint; `number` counts how often this step has been saved."""

    step: int
    number: int
    path: Path = field(compare=False)

    def checkpoint(self, check: Check) -> Checkpoint:
        """See `Checkpoint.at`."""
        checkpoint = Checkpoint.at(self.path, check)
        if checkpoint.step != self.step:
            raise DamagedError(self.path, f"it is of step {checkpoint.step}, and not of the step that its name says")
        return checkpoint


def places(folder: Path) -> list[CheckpointFolder]:
    """Oldest first."""
    matches = ((_NAME.fullmatch(path.name), path) for path in _entries(folder))
    return sorted(CheckpointFolder(int(match[1]), int(match[2] or 1), path) for match, path in matches if match)


def leftovers(folder: Path) -> list[Path]:
    """What is being written or deleted, or was when a process died."""
    hidden = [path for path in _entries(folder) if path.match(".step-*.writing") or path.match(".step-*.deleting")]
    return hidden + [place.path for place in places(folder) if (place.path / PENDING).exists()]


def set_aside(folder: Path) -> list[Path]:
    """The checkpoints that were set aside."""
    return [path for path in _entries(folder) if any(path.match(f"step-*.{why}*") for why in get_args(Aside))]


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is one, or was or will be: not whether it is whole."""
    return any((path / name).exists() for name in (MARKER, MANIFEST, PENDING))


def next_place(folder: Path, step: int) -> Path:
    """Where a checkpoint of `step` goes: beside an earlier one of the same step, so that there is always one."""
    number = 1 + max((place.number for place in places(folder) if place.step == step), default=0)
    return folder / (f"step-{step:08d}" + (f".{number}" if number > 1 else ""))


def writing_place(folder: Path, step: int) -> Path:
    """Where a checkpoint of a step lies while it is written."""
    return folder / f".step-{step:08d}.writing"


def deleting_place(path: Path) -> Path:
    """Where a checkpoint lies while it is deleted."""
    return path.with_name(f".{path.name}.deleting")


def aside_place(path: Path, why: Aside) -> Path:
    """Where a checkpoint that is not to be read lies from then on; its name says why."""
    names = (f"{path.name}.{why}" + (f"-{number}" if number > 1 else "") for number in itertools.count(1))
    return next(place for name in names if not (place := path.with_name(name)).exists())


def newest_whole(folder: Path, check: Check, damaged: Callable[[DamagedError], None]) -> Checkpoint | None:
    """The newest whole checkpoint; `damaged` is told of those that are newer."""
    while True:
        try:
            for place in reversed(places(folder)):
                try:
                    return place.checkpoint(check)
                except UnfinishedError:
                    continue
                except DamagedError as damage:
                    damaged(damage)
            return None
        except GoneError:
            # Retention was at work in another process: it has deleted old ones, so there are newer ones to look at.
            continue


def find_checkpoint(path: Path, warn: Callable[[str], None]) -> Checkpoint:
    """The checkpoint at `path`, or the newest one of the run there; `warn` is told of damaged newer ones.

    Raises UserError if there is none.
    """
    if is_checkpoint(path):
        return Checkpoint.at(path)
    folder = path / "checkpoints"
    newest = newest_whole(folder, "sizes", lambda damage: warn(str(damage))) if folder.is_dir() else None
    if newest is None:
        reason = "has no whole checkpoint yet" if folder.is_dir() else "is neither a run directory nor a checkpoint"
        raise UserError(f"{path} {reason}; give a run directory (runs/NAME) or a folder runs/NAME/checkpoints/step-…")
    return newest


def _entries(folder: Path) -> list[Path]:
    """Unlike a glob this does not take a folder that cannot be read for an empty one."""
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot look for checkpoints in {folder}: {error.strerror}") from error
