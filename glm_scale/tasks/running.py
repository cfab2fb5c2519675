"""Tasks × structures, one after the other: what is there already is left alone, and each result is kept as it comes."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from glm_scale.errors import UserError
from glm_scale.mixers import MixerError
from glm_scale.tasks.registry import parse_task
from glm_scale.tasks.results import Member, Result, Results
from glm_scale.tasks.setting import TIMES, Setting
from glm_scale.tasks.training import StackedTraining
from glm_scale.training.progress import Progress, StepView, open_progress

__all__ = ["run_tasks"]

_LOOK_EVERY = 20
"""Steps after which the host waits for the device, to say how it stands."""


def run_tasks(
    tasks: Sequence[str], mixers: Sequence[str], setting: Setting, device: torch.device, output: Path
) -> list[Result]:
    """Train and ask all mixers on all tasks, both by canonical spellings; what `output` holds is not done again.

    A mixer that cannot run here is skipped by name, with the reason. Raises UserError if nothing is left then, for an
    output that cannot be written or holds results of another setting, and where memory does not suffice.
    """
    results = _opened(output)
    there = {(result.task, result.mixer): result for result in results.require_setting(setting)}
    pairs = [(task, mixer) for task in tasks for mixer in mixers]
    clock = _Clock(sum(pair not in there for pair in pairs), setting.steps)
    found: list[Result] = []
    reasons: dict[str, str] = {}
    for number, (task, mixer) in enumerate(pairs, 1):
        with open_progress(f"[{number}/{len(pairs)}] {task} {mixer}") as progress:
            result = there.get((task, mixer))
            if result is not None:
                progress.say(f"{describe(result)}  (was there)")
            elif mixer not in reasons:
                try:
                    result = _run(task, mixer, setting, device, progress, clock)
                except MixerError as error:
                    reasons[mixer] = str(error)
                    progress.say(f"{mixer}: skipped: {error}")
                else:
                    results.add(result)
                    progress.say(f"{describe(result)}  ({result.seconds:.0f} s)")
        if result is None:
            clock.skip()
        else:
            found.append(result)
    if not found:
        raise UserError(f"none of the mixers can run here: {'; '.join(reasons.values())}; give others with --mixers")
    return found


def describe(result: Result) -> str:
    """One line: "copy  lattice:2^k  42.2 ± 1.3 % at rate 0.001, 20.0 % at 2× and 9.8 % at 4× the length"."""
    best = result.best()
    longer = " and ".join(f"{100 * result.best(times).mean:.1f} % at {times}×" for times in TIMES[1:])
    return f"{result.task}  {result.mixer}  {best} % at rate {best.rate:g}, {longer} the length"


def _opened(output: Path) -> Results:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {output}: {error.strerror}; name a folder that can be made and written") from error
    return Results(output)


class _Clock:
    """Time left for all that is to be trained, by the steps made so far."""

    def __init__(self, trainings: int, steps: int) -> None:
        self._left, self._made, self._steps = trainings * steps, 0, steps
        self._began = time.monotonic()

    def skip(self) -> None:
        """One training will not be."""
        self._left -= self._steps

    def step(self) -> None:
        """A step is made."""
        self._left, self._made = self._left - 1, self._made + 1

    @property
    def seconds_left(self) -> float:
        """From now on."""
        return (time.monotonic() - self._began) / max(self._made, 1) * self._left


def _run(task: str, mixer: str, setting: Setting, device: torch.device, progress: Progress, clock: _Clock) -> Result:
    began = time.monotonic()
    try:
        training = StackedTraining(parse_task(task), mixer, setting, device)
        losses = _trained(training, progress, clock)
        trained = training.results(losses)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{task} {mixer}: {len(setting.members)} models with a batch of {setting.batch} each do not fit into the "
            "memory of the GPU; give a smaller --batch, or fewer --seeds or --rates, and another --output"
        ) from error
    members = [
        Member(seed=one.seed, rate=one.rate, loss=one.loss if math.isfinite(one.loss) else None, accuracy=one.accuracy)
        for one in trained
    ]
    return Result(
        task=task, mixer=mixer, setting=setting, device=_named(device), seconds=time.monotonic() - began,
        members=tuple(members),
    )  # fmt: skip


def _trained(training: StackedTraining, progress: Progress, clock: _Clock) -> torch.Tensor:
    setting, began = training.setting, time.monotonic()
    for step in range(1, setting.steps + 1):
        losses = training.step()
        clock.step()
        if step % _LOOK_EVERY == 0:
            # That of the model which does best: others may have diverged.
            loss, seconds = float(losses.nan_to_num(math.inf).min()), time.monotonic() - began
            progress.step(StepView(step, setting.steps, loss, training.tokens / seconds, None, clock.seconds_left))
    return losses


def _named(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
