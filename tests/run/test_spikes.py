"""Whole runs with spikes: batches are skipped, and a run that diverges goes back and leaves out what it read there."""

import itertools
import json
import math
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any

import pytest

from glm_scale.checkpoint import Counters
from glm_scale.model import LanguageModel
from glm_scale.run.train import train
from glm_scale.run_directory import RunDirectory
from glm_scale.tracking import read_metrics
from glm_scale.training.loop import DivergenceError
from glm_scale.training.micro_batch import DeviceBatch
from glm_scale.training.steps import StepData
from tests.tiny_run import LENGTH, tiny_config
from tests.whole_runs import CrashError, Tree, config, curve, run_of

STEPS, BATCH, PASSES = 16, 4, 2
"""Of the run, of a step, and forward passes of a step."""
CHECKPOINT, DIVERGED = 8, 13
"""The steps that the run goes back to, and from, if steps 11 to 13 are spikes."""


@pytest.fixture
def tree(data: Path, tmp_path: Path) -> Tree:
    tree = tiny_config(data, tmp_path, tokens=STEPS * BATCH * LENGTH)
    # The losses fall fast and there are few of them: only what is far out is to be a spike.
    tree["training"]["spikes"] = {"window": 8, "threshold": 50.0, "rollback_after": 3}
    tree["checkpoint"]["every"] = 4
    tree["evaluation"] = {"every": 8, "sequences": 2}
    return tree


def spoil(monkeypatch: pytest.MonkeyPatch, steps: Container[int], factor: float = 1000.0) -> None:
    """Multiply the loss of the steps that read these batches of the data, counted from 1."""
    forward, passes = LanguageModel.forward, itertools.count()

    def spoiled(self: LanguageModel, *arguments: Any, **keywords: Any) -> Any:
        loss = forward(self, *arguments, **keywords)
        return loss * factor if self.training and 1 + next(passes) // PASSES in steps else loss

    monkeypatch.setattr(LanguageModel, "forward", spoiled)


def events(run: RunDirectory) -> list[tuple[int, Any]]:
    return [(record.step, record.values["event"]) for record in read_metrics(run.metrics, "event")]


def state(run: RunDirectory, name: str = f"step-{STEPS:08d}") -> dict[str, Any]:
    return dict(json.loads((run.checkpoints / name / "manifest.json").read_text())["state"])


def jumping(next_step: Callable[[StepData], Sequence[DeviceBatch]]) -> Callable[[StepData], Sequence[DeviceBatch]]:
    """The data without what is read between the checkpoint and the divergence."""
    steps = itertools.count()

    def jump(self: StepData) -> Sequence[DeviceBatch]:
        if next(steps) == CHECKPOINT:
            self.start(DIVERGED * BATCH)
        return next_step(self)

    return jump


@pytest.mark.parametrize("factor", [1000.0, float("nan")])
def test_a_spike_is_skipped_and_its_samples_count_as_read(
    tree: Tree, factor: float, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil(monkeypatch, {3, 12}, factor)
    assert train(config(tree)).status == "finished"
    run, spike = run_of(tree), math.isfinite(factor)
    # Before the window is full nothing but a loss that is no number is judged.
    assert events(run) == ([(12, "spike")] if spike else [(3, "skipped_step"), (12, "skipped_step")])
    assert ("step 12 skipped as a spike: loss" in capfd.readouterr().out) == spike
    found = state(run)
    assert found["counters"]["samples"] == STEPS * BATCH
    assert found["optimizer_steps"] == STEPS - found["counters"]["skipped"] == STEPS - len(events(run))
    assert found["spikes"]["skips"] == [12]
    assert len(found["spikes"]["losses"]) == 8
    assert max(found["spikes"]["losses"]) < 10


@pytest.mark.parametrize(("precision", "stage"), [("fp32", 0), ("fp32", 3), ("bf16", 2)])
def test_a_divergence_goes_back_and_leaves_out_what_was_read_meanwhile(
    tree: Tree, precision: str, stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = {"training__precision": precision, "training__zero_stage": stage}
    with monkeypatch.context() as patch:
        spoil(patch, range(11, DIVERGED + 1))
        assert train(config(tree, **layout)).status == "finished"
    with monkeypatch.context() as patch:
        patch.setattr(StepData, "next", jumping(StepData.next))
        train(config(tree, name="told", training__spikes=None, **layout))
    run = run_of(tree)
    assert curve(run) == curve(run_of(tree, "told"))
    assert events(run) == [(CHECKPOINT, "rolled_back")]
    (event,) = read_metrics(run.metrics, "event")
    assert (event.values["from_step"], event.values["to_step"]) == (DIVERGED, CHECKPOINT)
    assert (event.values["first_sample"], event.values["last_sample"]) == (CHECKPOINT * BATCH, DIVERGED * BATCH - 1)
    assert state(run)["counters"] == {
        "step": STEPS, "tokens": STEPS * BATCH * LENGTH, "samples": (STEPS + DIVERGED - CHECKPOINT) * BATCH,
        "skipped": 0, "bad_streak": 0,
    }  # fmt: skip
    assert state(run)["optimizer_steps"] == STEPS
    assert "step-00000012.diverged" in [path.name for path in run.checkpoints.iterdir()]


def test_a_run_killed_after_it_went_back_goes_on_as_if_nothing_had_happened(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = Counters.after

    def fatal(self: Counters, *arguments: Any, **named: Any) -> Counters:
        if self.step == 10 and self.samples > DIVERGED * BATCH:
            raise CrashError
        return after(self, *arguments, **named)

    for name in ("whole", "torn"):
        with monkeypatch.context() as patch:
            spoil(patch, range(11, DIVERGED + 1))
            if name == "torn":
                patch.setattr(Counters, "after", fatal)
                with pytest.raises(CrashError):
                    train(config(tree, name=name))
            else:
                train(config(tree, name=name))
    train(config(tree, name="torn"))
    whole, torn = run_of(tree, "whole"), run_of(tree, "torn")
    assert curve(torn) == curve(whole)
    assert events(torn) == events(whole) == [(CHECKPOINT, "rolled_back")]
    # Neither random numbers nor how long a save took are the same in every process.
    assert {**state(torn), "random": None, "seconds_of_last_save": 0} == {
        **state(whole),
        "random": None,
        "seconds_of_last_save": 0,
    }


def test_a_run_that_does_not_get_further_ends(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, range(11, 100))
    with pytest.raises(DivergenceError, match=r"3 of the last 8 steps .* back to step-00000008\.4 has led no further"):
        train(config(tree))
    run = run_of(tree)
    assert run.read_summary().status == "failed"
    assert events(run) == [(8, "rolled_back")] * 3 + [(9, "spike"), (10, "spike"), (11, "spike"), (11, "diverged")]
    assert state(run, "step-00000008.4")["spikes"]["rollbacks"] == 3
    assert run.read_summary().samples == (DIVERGED + 3 * 3) * BATCH
    # A new start does not forget how often that was.
    with pytest.raises(DivergenceError):
        train(config(tree))
    assert [event for _, event in events(run)].count("rolled_back") == 3


def test_losses_that_are_no_numbers_make_it_go_back_too(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, {6, 7}, float("nan"))
    assert train(config(tree, training__bad_step_limit=2)).status == "finished"
    assert events(run_of(tree)) == [(4, "rolled_back")]
    assert state(run_of(tree))["counters"]["samples"] == (STEPS + 3) * BATCH


def test_without_a_checkpoint_there_is_no_way_back(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, range(9, 12))
    with pytest.raises(DivergenceError, match=r"no checkpoint to go back to \(checkpoint.every\)"):
        train(config(tree, checkpoint__every=None))


def test_the_policy_may_be_taken_up_by_a_run_that_has_begun(tree: Tree) -> None:
    train(config(tree, training__tokens=10 * BATCH * LENGTH, training__spikes=None))
    assert state(run_of(tree), "step-00000010")["spikes"] is None
    train(config(tree))
    assert len(state(run_of(tree))["spikes"]["losses"]) == STEPS - 10
