"""A run that was interrupted ends as if nothing had happened; one that would become another is refused."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from glm_scale.checkpoint import Counters
from glm_scale.errors import UserError
from glm_scale.inference import load_model
from glm_scale.model import LanguageModel
from glm_scale.run.train import train
from glm_scale.tracking import read_metrics
from glm_scale.training.signals import REQUEUE_EXIT_CODE
from tests.commands import Commands
from tests.signals import handled
from tests.tiny_run import write_config
from tests.whole_runs import STEPS, CrashError, Tree, config, curve, run_of

LAYOUTS = [("fp32", 0), ("fp32", 1), ("fp32", 2), ("fp32", 3), ("bf16", 1), ("bf16", 2), ("bf16", 3)]


def crash_after(step: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the process die after the metrics of `step`, before any checkpoint of it; returns what undoes this."""
    after = Counters.after

    def fatal(self: Counters, *arguments: Any, **named: Any) -> Counters:
        if self.step == step:
            raise CrashError
        return after(self, *arguments, **named)

    monkeypatch.setattr(Counters, "after", fatal)
    return monkeypatch.undo


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


def test_a_killed_process_goes_on_as_if_nothing_had_happened(tree: Tree, tmp_path: Path, command: Commands) -> None:
    tree["training"]["tokens"] = 120 * tree["training"]["batch_tokens"]
    tree["checkpoint"]["every"] = 7
    tree["evaluation"] = {"every": 50, "sequences": 4}
    tree["tracking"]["system_metrics"] = None
    path = write_config(tmp_path / "run.yaml", tree)
    run = run_of(tree, "torn")
    with command.start("train", path, "name=torn") as process:
        process.wait_for(lambda: any(record.step >= 30 for record in read_metrics(run.metrics)))
        process.send(signal.SIGKILL)
        process.wait()
    assert run.status() == "killed"
    assert command("train", path, "name=torn").code == 0
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
