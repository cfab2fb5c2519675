"""A ladder: the same training for several mixers at several sizes, one run each.

Every run is a `glm-scale train` of its own, in a process of its own: it can be repeated by hand, and one that fails
takes nothing along. Runs that are finished are left alone, so a ladder can be stopped and started again. Names are made
by `glm_scale.naming`; a run that is there under the name of an earlier version keeps it.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from glm_scale.config import ConfigError, LadderConfig, Problem, RunConfig, load_config
from glm_scale.config.changes import is_same_run
from glm_scale.naming import former_slug, name_in_use, setting, slug
from glm_scale.run.recorded import recorded_config
from glm_scale.run_directory import RunDirectory
from glm_scale.training.signals import REQUEUE_EXIT_CODE

__all__ = ["Rung", "RungOutcome", "climb", "is_finished", "plan"]

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a ladder: the run that trains saves and ends first."""

RungOutcome = Literal["finished", "finished before", "failed", "stopped"]


@dataclass(frozen=True)
class Rung:
    """One run of a ladder: its configuration, and the overrides that make it from the ladder's file."""

    config: RunConfig
    overrides: tuple[str, ...]

    @property
    def run(self) -> RunDirectory:
        """The rung's run directory."""
        return RunDirectory(self.config.run_root / self.config.name)


def plan(path: Path, overrides: Sequence[str] = ()) -> list[Rung]:
    """The runs of the ladder in the configuration `path`, mixer by mixer within each size; nothing is started.

    Raises:
        ConfigError: there is no ladder, a run's configuration is not valid, or two runs would have one name.
    """
    base = load_config(path, overrides)
    if base.ladder is None:
        raise ConfigError(
            str(path), [Problem("ladder", "is missing: list the mixers to train in ladder.mixers", show_value=False)]
        )
    rungs = [
        _rung(path, overrides, base, base.ladder, mixer, size)
        for size in base.ladder.sizes
        for mixer in base.ladder.mixers
    ]
    names = [rung.config.name for rung in rungs]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(str(path), [Problem("ladder", f"has two runs named {name}; each mixer and size once")])
    return rungs


def climb(path: Path, rungs: Sequence[Rung]) -> dict[str, RungOutcome]:
    """Train the runs one after the other; returns what became of each, by name.

    A run that fails is reported and the next one started; one that the user stopped ends the ladder.
    """
    outcomes: dict[str, RungOutcome] = {}
    for rung in rungs:
        outcomes[rung.config.name] = outcome = _train(path, rung)
        if outcome == "stopped":
            break
    return outcomes


def _rung(
    path: Path,
    overrides: Sequence[str],
    base: RunConfig,
    ladder: LadderConfig,
    mixer: str | list[str],
    size: dict[str, Any],
) -> Rung:
    mixers = [mixer] if isinstance(mixer, str) else mixer
    sizes = [size] if len(ladder.sizes) > 1 else []
    former = "-".join([base.name, former_slug("+".join(mixers)), *map(_former_size, sizes)])
    name = "-".join([base.name, slug("+".join(mixers)), *map(_size_name, sizes)])
    name = name_in_use(base.run_root, name, former)
    own = [f"name={name}", f"model.mixers={json.dumps(mixers)}"]
    own += [f"{key}={json.dumps(value)}" for key, value in size.items()]
    changed = (*overrides, *own)
    return Rung(load_config(path, changed), changed)


def _train(path: Path, rung: Rung) -> RungOutcome:
    if is_finished(rung):
        return "finished before"
    command = [sys.executable, "-m", "glm_scale.cli.app", "train", str(path), *rung.overrides]
    code = _run(command)
    if code == 0:
        return "finished"
    interrupted = {-number for number in _FORWARDED} | {128 + number for number in _FORWARDED}
    return "stopped" if code in {REQUEUE_EXIT_CODE, *interrupted} else "failed"


def is_finished(rung: Rung) -> bool:
    """Whether the run is there, finished, and of this very configuration; if not, `train` finds out what to do."""
    run = rung.run
    if not run.exists() or run.status() != "finished":
        return False
    return is_same_run(recorded_config(run).values, rung.config.model_dump(mode="json"))


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


def _size_name(size: dict[str, Any]) -> str:
    return "-".join(setting(key, value) for key, value in size.items()) or "base"


def _former_size(size: dict[str, Any]) -> str:
    return "-".join(f"{key.rsplit('.', 1)[-1]}{former_slug(str(value))}" for key, value in size.items()) or "base"
