"""Whole runs: what they leave behind, and which are refused."""

import json
import math
from importlib.metadata import version
from typing import Any

import pytest
import torch
import yaml

from glm_scale.errors import UserError
from glm_scale.model import LanguageModel
from glm_scale.run.train import train
from glm_scale.run_directory import RunDirectory
from glm_scale.tracking import read_metrics
from glm_scale.tracking.breakdown import Breakdown
from glm_scale.training.loop import DivergenceError
from tests.whole_runs import STEPS, Tree, config, curve, run_of


def test_a_run_leaves_a_complete_directory(tree: Tree) -> None:
    assert train(config(tree)).status == "finished"
    run = run_of(tree)
    summary = run.read_summary()
    assert (summary.status, summary.step, summary.samples) == ("finished", STEPS, 4 * STEPS)
    assert summary.tokens == tree["training"]["tokens"]
    assert summary.mixer == "lattice:2^k+attention"
    records = list(read_metrics(run.metrics))
    assert [record.step for record in records if record.kind == "train"] == [*range(1, STEPS + 1)]
    validations = [record for record in records if record.kind == "validation"]
    assert [(record.step, record.values.get("final")) for record in validations] == [(3, None), (STEPS, True)]
    assert records[-1].flops == summary.train_flops_per_token * summary.tokens
    breakdown = Breakdown.read(run.breakdown, STEPS)
    assert breakdown is not None
    assert [(record.step, record.values) for record in records if record.kind == "breakdown"] == [
        (STEPS, breakdown.values())
    ]
    assert breakdown.whole.loss == pytest.approx(validations[-1].number("loss"), rel=1e-12)
    assert [path.name for path in sorted(run.checkpoints.iterdir())] == ["step-00000004", "step-00000006"]
    assert yaml.safe_load(run.config.read_text())["training"]["optimizer"]["betas"] == [0.9, 0.95]
    assert (run.plots / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert run.read_version()["torch"] == version("torch")
    losses = [record.number("loss") or math.nan for record in records if record.kind == "train"]
    assert losses[-1] < losses[0] - 0.3


def test_a_finished_run_is_left_alone(tree: Tree) -> None:
    train(config(tree))
    before = run_of(tree).metrics.read_bytes()
    assert train(config(tree)).status == "finished"
    assert run_of(tree).metrics.read_bytes() == before


def test_a_run_that_is_to_be_new_leaves_an_earlier_one_whole(tree: Tree) -> None:
    train(config(tree), fresh=True)
    before = run_of(tree).metrics.read_bytes()
    train(config(tree, training__seed=1), fresh=True)
    earlier = RunDirectory(f"{run_of(tree).path}.1")
    assert earlier.metrics.read_bytes() == before
    assert (earlier.read_summary().name, earlier.saved_steps()) == ("tiny.1", [4, 6])
    assert run_of(tree).metrics.read_bytes() != before


def test_divergence_ends_the_run_as_failed(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = LanguageModel.forward
    calls: list[None] = []

    def poisoned(self: LanguageModel, *arguments: Any, **keywords: Any) -> torch.Tensor:
        calls.append(None)
        loss = forward(self, *arguments, **keywords)
        return loss if len(calls) < 4 else loss * torch.nan

    monkeypatch.setattr(LanguageModel, "forward", poisoned)
    with pytest.raises(DivergenceError, match=r"2 consecutive steps .*learning_rate"):
        train(config(tree, training__bad_step_limit=2, evaluation__every=None))
    run = run_of(tree)
    assert run.read_summary().status == "failed"
    events = [record.values["event"] for record in read_metrics(run.metrics, "event")]
    assert events == ["skipped_step", "skipped_step", "diverged"]


def test_a_lone_bad_step_is_skipped_and_counted(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = LanguageModel.forward
    calls: list[None] = []

    def poisoned(self: LanguageModel, *arguments: Any, **keywords: Any) -> torch.Tensor:
        calls.append(None)
        loss = forward(self, *arguments, **keywords)
        return loss if len(calls) != 4 else loss * torch.nan

    monkeypatch.setattr(LanguageModel, "forward", poisoned)
    assert train(config(tree, training__bad_step_limit=2)).status == "finished"
    run = run_of(tree)
    assert len(list(read_metrics(run.metrics, "event"))) == 1
    manifest = json.loads((run.checkpoint(STEPS) / "manifest.json").read_text())
    assert manifest["state"]["counters"]["skipped"] == 1
    assert manifest["state"]["optimizer_steps"] == STEPS - 1


def test_a_running_run_is_not_started_twice(tree: Tree) -> None:
    with run_of(tree).create().lock(), pytest.raises(UserError, match="process"):
        train(config(tree))


def test_a_vocabulary_too_small_for_the_data_is_refused(tree: Tree) -> None:
    with pytest.raises(UserError, match=r"set model\.vocab_size="):
        train(config(tree, model__vocab_size=256))


def test_activation_checkpointing_changes_no_number(tree: Tree) -> None:
    train(config(tree, name="plain"))
    for policy in ("selective", "full"):
        train(config(tree, name=policy, training__activation_checkpointing=policy))
        assert curve(run_of(tree, "plain")) == curve(run_of(tree, policy))
