"""A trial: a run comes to grief, perhaps its files do too, and the same command has to bring it to its end.

What is guaranteed, and checked after every kill and at the end:

* A save that ended without a failure is on the disk, or was deleted by retention for newer ones. Saves overlap with
  training, but the next one waits for the last: of all that were begun and did not fail, only the last may be missing.
  So the run goes on from the newest save that was begun, or, if a death interrupted that one, from the save before:
  what is lost is one interval at most, the one that was being saved, and the steps made since that save was begun.
* If the newest checkpoint is damaged it is named and set aside, and the one before is taken, as long as there is one.
* Nothing valid is deleted or renamed but by retention, and no damaged file is ever deleted.
* Losses and samples are those of the run that nothing disturbed: in the same layout bit for bit, weights and moments as
  well; in another one losses up to rounding.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from glm_scale.checkpoint.layout import leftovers, set_aside
from tests.faults.damage import DAMAGES
from tests.faults.plan import Disk, Kill, Moment, Plan
from tests.faults.rank import FULL, Faults
from tests.faults.report import Report
from tests.faults.runs import KEPT, STEPS, Attempt, Reference, Runs, samples_by_step
from tests.tiny_run import SAME_LOSSES

_BY_THEMSELVES = 60.0
"""Seconds in which ranks have to end that have lost another; they take less than one on a machine that is not busy."""


def carry_out(plan: Plan, runs: Runs, report: Report) -> None:
    """Fails, naming the plan, if anything is not as it has to be."""
    try:
        _Trial(plan, runs, report).carry_out()
    except AssertionError as error:
        raise AssertionError(f"{error}\n{plan}") from error


class _Trial:
    def __init__(self, plan: Plan, runs: Runs, report: Report) -> None:
        self._plan, self._runs, self._report = plan, runs, report
        self._tiny = runs.new(plan.every)
        self._valid: dict[int, Path] = {}
        self._interrupted: list[Path] = []
        self._bitwise = len(set(plan.setups)) == 1

    def carry_out(self) -> None:
        plan = self._plan
        for setup, grief in zip(plan.setups, plan.griefs, strict=False):
            faults = Faults(
                death=grief.when if isinstance(grief, Kill) and not isinstance(grief.when, Moment) else None,
                refusal=grief.refusal if isinstance(grief, Disk) else None,
                clock=plan.clock,
            )
            with self._disk(grief), self._tiny.start(setup, faults) as attempt:
                if isinstance(grief, Kill):
                    self._kill(attempt, grief)
                else:
                    self._suffer(attempt, grief)
            self._check_start(attempt)
            self._check_disk(attempt, victim=grief.rank if isinstance(grief, Kill) else None)
        damaged = self._damage()
        self._finish(damaged)
        self._report.trials += 1

    # Grief -----------------------------------------------------------------------------------------------------

    def _kill(self, attempt: Attempt, kill: Kill) -> None:
        processes = attempt.processes
        if isinstance(kill.when, Moment):
            if not self._wait_for(attempt, kill.when):
                return self._report.missed(kill)
            victims = list(range(attempt.setup.processes)) if kill.all_die else [kill.rank]
            when = time.monotonic()
            processes.send(signal.SIGKILL, victims)
            processes.wait(60, lambda: processes.ended.keys() >= set(victims))
        else:
            processes.wait(300, lambda: bool(processes.ended))
            when = time.monotonic()
            if kill.all_die and processes.ended.get(kill.rank) == -signal.SIGKILL:
                processes.send(signal.SIGKILL, processes.living)
        if processes.ended.get(kill.rank) != -signal.SIGKILL:
            attempt.finish()
            return self._report.missed(kill)
        if kill.grace is not None:
            processes.send(signal.SIGTERM, processes.living)
            processes.wait(kill.grace)
            processes.send(signal.SIGKILL, processes.living)
        begin = time.monotonic()
        alone = bool(processes.living)
        attempt.end(_BY_THEMSELVES)
        inside = not isinstance(kill.when, Moment) or attempt.notes.is_saving(when)
        return self._report.killed(kill, inside, time.monotonic() - begin if alone and kill.grace is None else None)

    def _wait_for(self, attempt: Attempt, moment: Moment) -> bool:
        """Whether ranks still live at this moment."""
        reference = self._runs.reference(attempt.setup)
        if moment.in_start:
            return not attempt.processes.wait(moment.part * reference.started)
        begins = attempt.logs / "rank-0.notes"
        over = attempt.processes.wait(
            300, lambda: begins.exists() and b"training begins" in begins.read_bytes(), poll=0.005
        )
        return over and not attempt.processes.wait(moment.part * reference.trained)

    @contextmanager
    def _disk(self, grief: Kill | Disk) -> Iterator[None]:
        """A file system that is too small for long; what is on it is copied back to where there is room."""
        if not isinstance(grief, Disk) or not grief.small:
            yield
            return
        place = self._tiny.checkpoints
        place.mkdir(parents=True)
        size = int(grief.small * self._runs.reference(self._plan.setups[0]).size) >> 10
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", place], check=True)
        try:
            yield
            kept = place.with_name("kept")
            subprocess.run(["cp", "-a", place, kept], check=True)
        finally:
            subprocess.run(["umount", place], check=True)
        place.rmdir()
        kept.rename(place)

    def _suffer(self, attempt: Attempt, disk: Disk) -> None:
        """The run goes on where a save fails, and says so; only if the last one does it ends with an error."""
        attempt.finish({0, 1})
        failed = [note.values for note in attempt.notes.of("save ends") if note.values[1]]
        last_failed = STEPS in {step for step, _ in failed}
        assert set(attempt.processes.ended.values()) == {int(last_failed)}, attempt.everything()
        number = disk.refusal.number if disk.refusal else FULL
        assert {os.strerror(number) in why for _, why in failed} <= {True}, failed
        for step in {step for step, _ in failed}:
            assert f"step-{step:08d}" in attempt.output(), (failed, attempt.everything())
        self._report.refused += bool(failed)

    # What has to hold ------------------------------------------------------------------------------------------

    def _check_start(self, attempt: Attempt) -> None:
        """It went on from the newest valid checkpoint, and its samples were those due."""
        notes = attempt.notes
        newest = max(self._valid, default=0)
        assert set(notes.firsts("training begins")) <= {newest}, (newest, attempt.output())
        due = self._runs.reference(attempt.setup).samples[newest:]
        got = samples_by_step(notes, newest, attempt.setup)
        assert got == due[: len(got)], (newest, got, due)
        if notes.of("training begins"):
            if newest:
                name = self._valid[newest].name
                assert f"going on from step {newest} ({name})" in attempt.output(), attempt.output()
            for leftover in self._interrupted:
                assert f"{leftover} does not count: its save was interrupted" in attempt.output(), attempt.output()

    def _check_disk(self, attempt: Attempt, victim: int | None) -> None:
        """No save is lost but the one that was being written."""
        # Other ranks may begin one more without the dead one, which fails.
        saves = {note.values[0] for note in attempt.notes.of("save begins") if victim in (None, note.rank)}
        failed = {note.values[0] for note in attempt.notes.of("save ends") if note.values[1]}
        without = failed if victim is None else {max(saves, default=0)}
        before, self._valid = self._valid, self._tiny.valid()
        committed = before.keys() | (saves - without) | (saves & self._valid.keys())
        kept = sorted(committed)[-KEPT:]
        assert set(kept) <= self._valid.keys(), (sorted(before), saves, without, sorted(self._valid))
        self._interrupted = [p for p in leftovers(self._tiny.checkpoints) if not p.name.endswith(".deleting")]

    def _damage(self) -> tuple[Path, str] | None:
        if self._plan.damage is None or not self._valid:
            return None
        path = self._valid.pop(max(self._valid))
        named = DAMAGES[self._plan.damage](path, self._plan.draw)
        self._report.damaged[self._plan.damage] += 1
        return path, named

    def _finish(self, damaged: tuple[Path, str] | None) -> None:
        plan, tiny = self._plan, self._tiny
        aside = {path: _content(path) for path in ([damaged[0]] if damaged else [])}
        with tiny.start(plan.setups[-1], Faults(clock=plan.clock)) as attempt:
            if plan.twice:
                attempt = self._refuse_one(attempt)
            attempt.finish()
        output = attempt.output()
        if damaged:
            path, named = damaged
            told = next((line for line in output.splitlines() if f"the checkpoint {path} is damaged" in line), "")
            assert named in told, (named, output)
            assert "It was set aside as" in told, told
            places = set_aside(tiny.checkpoints)
            assert [_content(place) for place in places] == list(aside.values())
        else:
            assert "damaged" not in output, output
        saved = {note.values[0] for note in attempt.notes.of("save begins")}
        if "is finished already" not in output:
            self._check_start(attempt)
        # Where nothing is saved nothing is deleted either.
        assert sorted(tiny.valid()) == sorted({*self._valid, *saved})[-KEPT if saved else None :]
        assert not leftovers(tiny.checkpoints) or not saved
        self._check_numbers(self._runs.reference(plan.setups[-1]))

    def _refuse_one(self, first: Attempt) -> Attempt:
        """Start the same again at once; whoever comes first is held until the other was refused."""
        with self._tiny.start(self._plan.setups[-1]) as second:
            both = [first, second]
            while not any(a.notes.of("training begins") for a in both):
                assert not all(a.processes.ended for a in both), [a.everything() for a in both]
                for attempt in both:
                    attempt.processes.wait(0.005)
                if any(a.processes.ended and "is finished already" in a.output() for a in both):
                    return first
            winner = next(a for a in both if a.notes.of("training begins"))
            loser = both[1 - both.index(winner)]
            winner.processes.send(signal.SIGSTOP, winner.processes.living)
            loser.finish({1})
            winner.processes.send(signal.SIGCONT, winner.processes.living)
            assert f"error: process {winner.processes.pids[0]} on " in loser.output(), loser.output()
            assert f" is training in {self._tiny.path}; wait for it" in loser.output(), loser.output()
            winner.finish()
        self._report.twice += 1
        return winner

    def _check_numbers(self, reference: Reference) -> None:
        tiny = self._tiny
        for kind, due in (("train", reference.losses), ("validation", reference.validation)):
            found = tiny.losses(kind)
            if self._bitwise:
                assert found == due, (kind, found, due)
            else:
                assert found == pytest.approx(due, rel=SAME_LOSSES), (kind, found, due)
        if self._bitwise:
            assert tiny.weights() == reference.weights, "weights or moments differ"


def _content(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}
