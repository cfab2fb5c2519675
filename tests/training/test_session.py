"""Whole runs: what they leave behind, and that an interrupted one ends as if nothing had happened."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from glm_scale.checkpoint import Counters
from glm_scale.config import RunConfig
from glm_scale.errors import UserError
from glm_scale.inference import load_model
from glm_scale.inference.evaluation import evaluate_model
from glm_scale.model import LanguageModel
from glm_scale.run.train import train
from glm_scale.run_directory import RunDirectory
from glm_scale.tracking import read_metrics
from glm_scale.training.loop import DivergenceError
from glm_scale.training.saver import Saver
from glm_scale.training.signals import REQUEUE_EXIT_CODE
from tests.signals import handled
from tests.tiny_run import SAME_LOSSES, tiny_config, write_config

LAYOUTS = [("fp32", 0), ("fp32", 1), ("fp32", 2), ("fp32", 3), ("bf16", 1), ("bf16", 2), ("bf16", 3)]
STEPS = 6

Tree = dict[str, Any]


class CrashError(Exception):
    """Stands for the death of the process."""


@pytest.fixture
def tree(data: Path, tmp_path: Path) -> Tree:
    return tiny_config(data, tmp_path)


def config(tree: Tree, **changes: Any) -> RunConfig:
    merged = yaml.safe_load(yaml.safe_dump(tree))
    for key, value in changes.items():
        group = merged
        *path, leaf = key.split("__")
        for part in path:
            group = group[part]
        group[leaf] = value
    return RunConfig.model_validate(merged)


def run_of(tree: Tree, name: str = "tiny") -> RunDirectory:
    return RunDirectory(Path(tree["run_root"]) / name)


def curve(run: RunDirectory) -> list[tuple[Any, ...]]:
    """Everything in the log that a repetition has to repeat exactly."""
    return [
        (
            record.kind,
            record.step,
            record.tokens,
            *(record.values.get(key) for key in ("loss", "lr", "grad_norm", "final")),
        )
        for record in read_metrics(run.metrics)
        if record.kind in ("train", "validation")
    ]


def crash_after(step: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the process die after the metrics of `step`, before any checkpoint of it; returns what undoes this."""
    after = Counters.after

    def fatal(self: Counters, *arguments: Any, **named: Any) -> Counters:
        if self.step == step:
            raise CrashError
        return after(self, *arguments, **named)

    monkeypatch.setattr(Counters, "after", fatal)
    return monkeypatch.undo


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
    assert [path.name for path in sorted(run.checkpoints.iterdir())] == ["step-00000004", "step-00000006"]
    assert yaml.safe_load(run.config.read_text())["training"]["optimizer"]["betas"] == [0.9, 0.95]
    assert (run.plots / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert run.read_version()["torch"] == version("torch")
    losses = [record.values["loss"] for record in records if record.kind == "train"]
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


@pytest.mark.parametrize(
    ("layout", "died_at"), [*zip(LAYOUTS, (1, 2, 3, 4, 5, 3, 2), strict=True)], ids=lambda value: str(value)
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    tree: Tree, layout: tuple[str, int], died_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"training__precision": layout[0], "training__zero_stage": layout[1]}
    train(config(tree, name="whole", **settings))
    undo = crash_after(died_at, monkeypatch)
    with pytest.raises(CrashError):
        train(config(tree, name="torn", **settings))
    assert run_of(tree, "torn").read_summary().status == "failed"
    undo()
    assert train(config(tree, name="torn", **settings)).status == "finished"
    assert curve(run_of(tree, "torn")) == curve(run_of(tree, "whole"))
    whole, torn = (load_model(run_of(tree, name).path).model.state_dict() for name in ("whole", "torn"))
    assert all(torch.equal(torn[name], weight) for name, weight in whole.items())


def test_the_global_random_state_is_resumed(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model draws no random numbers today; one that did would have to resume exactly too."""
    forward = LanguageModel.forward

    def noisy(self: LanguageModel, *arguments: Any, **keywords: Any) -> torch.Tensor:
        return forward(self, *arguments, **keywords) * (1 + 0.1 * torch.rand(()) * self.training)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "forward", noisy)
        train(config(tree, name="whole"))
        with patch.context() as inner:
            crash_after(4, inner)
            with pytest.raises(CrashError):
                train(config(tree, name="torn"))
        train(config(tree, name="torn"))
    assert curve(run_of(tree, "torn")) == curve(run_of(tree, "whole"))


def test_a_killed_process_goes_on_as_if_nothing_had_happened(tree: Tree, tmp_path: Path) -> None:
    tree["training"]["tokens"] = 120 * tree["training"]["batch_tokens"]
    tree["checkpoint"]["every"] = 7
    tree["evaluation"] = {"every": 50, "sequences": 4}
    tree["tracking"]["system_metrics"] = None
    path = write_config(tmp_path / "run.yaml", tree)
    command = [sys.executable, "-m", "glm_scale.cli.app", "train", str(path)]
    process = subprocess.Popen([*command, "name=torn"], stdout=subprocess.DEVNULL)
    run = run_of(tree, "torn")
    deadline = time.monotonic() + 120
    while not any(record.step >= 30 for record in read_metrics(run.metrics)):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert run.status() == "killed"
    subprocess.run([*command, "name=torn"], check=True, stdout=subprocess.DEVNULL)
    train(config(tree, name="whole"))
    assert curve(run) == curve(run_of(tree, "whole"))
    assert run.read_summary().status == "finished"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_saves_at_the_next_step_and_the_run_goes_on(
    tree: Tree, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = Counters.after

    def interrupted(self: Counters, *arguments: Any, **named: Any) -> Counters:
        if self.step == 2:
            signal.raise_signal(number)
        return after(self, *arguments, **named)

    with handled(number), monkeypatch.context() as patch:
        patch.setattr(Counters, "after", interrupted)
        outcome = train(config(tree, name="torn", checkpoint__every=None))
    assert (outcome.status, outcome.stopped_by) == ("stopped", number.name)
    assert outcome.exit_code == (130 if number == signal.SIGINT else REQUEUE_EXIT_CODE)
    run = run_of(tree, "torn")
    assert run.read_summary().status == "stopped"
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000003"]
    train(config(tree, name="torn", checkpoint__every=None))
    train(config(tree, name="whole"))
    assert curve(run) == curve(run_of(tree, "whole"))


def test_the_time_limit_saves_and_asks_for_another_start(tree: Tree) -> None:
    """However short it is, the run comes to its end: every start makes a step."""
    for step in range(1, STEPS):
        outcome = train(config(tree, training__time_limit_minutes=1e-9, checkpoint__every=None))
        assert (outcome.status, outcome.stopped_by) == ("stopped", "its time limit")
        assert outcome.exit_code == REQUEUE_EXIT_CODE
        assert run_of(tree).read_summary().step == step
    assert train(config(tree, training__time_limit_minutes=1e-9)).status == "finished"
    train(config(tree, name="whole"))
    assert curve(run_of(tree))[-1] == curve(run_of(tree, "whole"))[-1]


def test_divergence_ends_the_run_as_failed(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, calls = LanguageModel.forward, []

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
    forward, calls = LanguageModel.forward, []

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


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"training__seed": 1}, "training.seed: 0 → 1"),
        ({"model__layers": 1}, "model.layers: 2 → 1"),
        ({"data__seed": 5}, "data.seed: 0 → 5"),
        ({"training__batch_tokens": 192, "training__tokens": 1152}, "training.batch_tokens: 128 → 192"),
        ({"training__precision": "bf16"}, "training.precision"),
        ({"training__tokens": 128}, "training.tokens: 768 → 128"),
    ],
)
def test_a_change_that_makes_another_run_is_refused(tree: Tree, changes: Tree, key: str) -> None:
    train(config(tree))
    before = run_of(tree).summary.read_bytes()
    with pytest.raises(UserError, match="another run") as caught:
        train(config(tree, **changes))
    assert key in str(caught.value)
    assert run_of(tree).summary.read_bytes() == before


def test_other_data_under_the_same_path_are_refused(tree: Tree) -> None:
    train(config(tree))
    run_of(tree).update_summary(data_fingerprint="0" * 64, status="killed")
    with pytest.raises(UserError, match="other data"):
        train(config(tree))


def test_a_larger_budget_and_another_layout_go_on(tree: Tree, capfd: pytest.CaptureFixture[str]) -> None:
    train(config(tree))
    longer = config(
        tree,
        training__tokens=8 * 128,
        training__zero_stage=3,
        training__micro_batch=4,
        evaluation__sequences=2,
        checkpoint__keep=1,
    )
    assert train(longer).status == "finished"
    told = capfd.readouterr().out
    assert "training.tokens: 768 → 1024; the learning-rate schedule stretches" in told
    assert "going on from step 6" in told
    run = run_of(tree)
    assert run.read_summary().step == 8
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000008"]


def test_a_running_run_is_not_started_twice(tree: Tree) -> None:
    with run_of(tree).create().lock(), pytest.raises(UserError, match="process"):
        train(config(tree))


def test_a_vocabulary_too_small_for_the_data_is_refused(tree: Tree) -> None:
    with pytest.raises(UserError, match=r"set model\.vocab_size="):
        train(config(tree, model__vocab_size=256))


def test_activation_checkpointing_changes_no_number(tree: Tree) -> None:
    train(config(tree, name="plain"))
    train(config(tree, name="checkpointed", training__activation_checkpointing=True))
    assert curve(run_of(tree, "plain")) == curve(run_of(tree, "checkpointed"))


def test_evaluating_a_checkpoint_gives_the_logged_validation_loss(tree: Tree) -> None:
    train(config(tree, evaluation__sequences=None))
    run = run_of(tree)
    (final,) = [record for record in read_metrics(run.metrics, "validation") if record.values.get("final")]
    result = evaluate_model(load_model(run.path), None, "validation", None, None)
    assert result.loss == pytest.approx(final.number("loss"), rel=SAME_LOSSES)
    assert result.bits_per_byte == pytest.approx(final.number("bits_per_byte"), rel=SAME_LOSSES)
    shorter = evaluate_model(load_model(run.checkpoint(4)), Path(tree["data"]["sources"][0]["path"]), "train", 16, 3)
    assert 0 < shorter.tokens <= 3 * 16


def test_tied_weights_stay_tied_when_loaded(tree: Tree) -> None:
    train(config(tree, model__tie_embeddings=True, training__zero_stage=3))
    model = load_model(run_of(tree).path).model
    assert model.head.weight is model.embedding.weight


def test_loading_needs_a_checkpoint(tree: Tree, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a run directory nor a checkpoint"):
        load_model(tmp_path)
    run_of(tree).create()
    with pytest.raises(UserError, match="no whole checkpoint"):
        load_model(run_of(tree).path)


def test_saving_the_same_step_twice_writes_once(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    save = Saver.save
    monkeypatch.setattr(Saver, "save", lambda self, *given: (written.append(given[0].step), save(self, *given))[1])
    train(config(tree, checkpoint__every=6, evaluation__every=None))
    assert written == [STEPS]
