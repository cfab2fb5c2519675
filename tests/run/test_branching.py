"""A run that begins as another one was after a step ends as one that was trained alone."""

from typing import Any

import pytest
import torch

from glm_scale.errors import UserError
from glm_scale.inference import load_model
from glm_scale.run.train import train
from tests.run.test_going_on import crash_after
from tests.whole_runs import STEPS, CrashError, Tree, config, curve, run_of

BEFORE = 2
"""Steps until the branch."""


@pytest.fixture
def tokens(tree: Tree) -> int:
    """Of a step; the runs have a constant rate until their last two steps."""
    step: int = tree["training"]["batch_tokens"]
    tree["training"]["schedule"] = {"kind": "wsd", "warmup_tokens": step, "decay_tokens": 2 * step}
    tree["training"]["tokens"] = STEPS * step
    tree["checkpoint"] = {"every": None, "keep": 1, "at": [BEFORE]}
    return step


def branch(tokens: int, step: int = BEFORE, **more: Any) -> dict[str, Any]:
    return {"name": "branch", "branch": {"run": "trunk", "step": step}, "training__tokens": 4 * tokens, **more}


def test_a_branch_equals_a_run_of_its_budget_alone(tree: Tree, tokens: int) -> None:
    assert train(config(tree, name="trunk")).status == "finished"
    assert train(config(tree, **branch(tokens))).status == "finished"
    train(config(tree, name="alone", training__tokens=4 * tokens))
    alone, found = (load_model(run_of(tree, name).path).model.state_dict() for name in ("alone", "branch"))
    assert all(torch.equal(found[name], weight) for name, weight in alone.items())
    assert curve(run_of(tree, "branch")) == [point for point in curve(run_of(tree, "alone")) if point[1] > BEFORE]
    assert run_of(tree, "branch").read_summary().tokens == 4 * tokens


def test_a_branch_goes_on_from_its_own_checkpoints(tree: Tree, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    train(config(tree, name="trunk"))
    own = branch(tokens, checkpoint__every=1)
    undo = crash_after(3, monkeypatch)
    with pytest.raises(CrashError):
        train(config(tree, **own))
    undo()
    train(config(tree, **own))
    train(config(tree, name="alone", training__tokens=4 * tokens))
    assert curve(run_of(tree, "branch")) == [point for point in curve(run_of(tree, "alone")) if point[1] > BEFORE]
    assert train(config(tree, **own)).status == "finished"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"branch": {"run": "nobody", "step": BEFORE}}, "there is no run .*nobody; train it first"),
        ({"branch": {"run": "trunk", "step": 3}}, r"no checkpoint of that step \(of steps: 2, 6\); .*at=\[3\]"),
        ({"branch": {"run": "trunk", "step": STEPS}}, "after .* tokens, and training.tokens = .* leave nothing"),
        ({"training__optimizer": {"learning_rate": 1e-4}}, "trained otherwise:\n  training.optimizer.learning_rate"),
        ({"training__seed": 5}, "trained otherwise:\n  training.seed: 0 → 5"),
        ({"training__tokens": 3, "in": "steps"}, "had a learning rate of .* there, where a run of training.tokens"),
    ],
)  # fmt: skip
def test_what_would_have_been_another_run_is_refused(
    tree: Tree, tokens: int, changed: dict[str, Any], reason: str
) -> None:
    train(config(tree, name="trunk"))
    if changed.pop("in", None):
        changed["training__tokens"] *= tokens
    with pytest.raises(UserError, match=f"(?s){reason}"):
        train(config(tree, **branch(tokens) | changed))
    assert not run_of(tree, "branch").exists()


def test_a_run_is_no_branch_of_itself(tree: Tree) -> None:
    with pytest.raises(ValueError, match=r"branch\.run = tiny is this run itself"):
        config(tree, branch={"run": "tiny", "step": 1})
