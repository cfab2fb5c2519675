"""A stack of models computes and learns what its models would alone, one by one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from glm_scale.mixers import MixerError
from glm_scale.mixers.baselines.mamba2 import Mamba2Mixing
from glm_scale.model.head import IGNORED
from glm_scale.tasks.model import build_model
from glm_scale.tasks.optimizer import StackedAdamW
from glm_scale.tasks.registry import parse_task
from glm_scale.tasks.setting import TIMES, Setting
from glm_scale.tasks.stack import Stack
from glm_scale.tasks.training import StackedTraining, batch_of, seed_of
from glm_scale.training.config import OptimizerConfig
from glm_scale.training.groups import parameter_groups
from glm_scale.training.optimizer import GuardedAdamW, build_optimizer
from glm_scale.training.schedule import learning_rate
from tests.mixers.running_sum import registered
from tests.tolerances import assert_close, loss_curve, rounding

pytestmark = pytest.mark.numeric

CPU = torch.device("cpu")
TASK = parse_task("copy:5")
SETTING = Setting(seeds=2, rates=(1e-3, 1e-2), steps=6, batch=4, sequences=6)
OPERATIONS = 2 * (10 + 3 * 128 + 384)
"""Of a logit: two layers with their projections and a sum over rows."""

VARIANTS = [
    ("attention", False, True),
    ("local:3 > lattice:2^k", True, True),
    ("offsets:k^2+1+ssm", False, False),
    ("mamba2", True, False),
    ("gla:8+kda:8", False, False),
    ("gated_deltanet:8+log_linear:8", False, False),
]
"""Mixer, with convolution, with MLPs: every kind of layer and parameter is in one of them."""


def alone(mixer: str, seed: int, rate: float, setting: Setting) -> list[Tensor]:
    """The losses of one model of the real class, trained by the real optimizer."""
    model = build_model(TASK, mixer, seed, conv=setting.conv, mlp=setting.mlp)
    optimizer = build_optimizer(model, setting.optimizer, guarded=True, fused=False)
    place, losses = setting.members.index((seed, rate)), []
    for step in range(setting.steps):
        tokens, labels = (x[:, :, place] for x in batch_of(TASK, setting, step, CPU))
        loss = model(tokens, labels=labels) / (labels != IGNORED).sum()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(setting.schedule, rate, step + 1, setting.steps)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return losses


@pytest.mark.parametrize(("mixer", "conv", "mlp"), VARIANTS)
def test_stacked_models_learn_what_each_learns_alone(mixer: str, conv: bool, mlp: bool) -> None:
    setting = SETTING.model_copy(update={"conv": conv, "mlp": mlp})
    training = StackedTraining(TASK, mixer, setting, CPU)
    stacked = torch.stack([training.step() for _ in range(setting.steps)])
    single = torch.stack([torch.stack(alone(mixer, *member, setting)) for member in setting.members], 1)
    assert_close(stacked, single, loss_curve(OPERATIONS, setting.steps))
    # Rates make a difference from the second step on, seeds at once.
    assert torch.equal(stacked[0, ::2], stacked[0, 1::2])
    assert len(set(stacked[-1].tolist())) == 4


@pytest.mark.parametrize(("mixer", "conv", "mlp"), VARIANTS)
def test_whatever_their_weights_models_give_the_logits_that_they_give_alone(mixer: str, conv: bool, mlp: bool) -> None:
    models = [build_model(TASK, mixer, seed, conv=conv, mlp=mlp) for seed in range(3)]
    with torch.no_grad():
        for parameter in (p for model in models for p in model.parameters()):
            parameter.add_(0.1 * torch.randn_like(parameter))
    stack = Stack(models, CPU)
    tokens = torch.stack([TASK.draw(seed, 2, times=2).tokens for seed in range(3)], 2)
    logits = stack.logits(stack.weights, tokens)
    assert logits.shape == (2, 20, 3, TASK.vocabulary)
    for index, model in enumerate(models):
        assert_close(logits[:, :, index], model(tokens[:, :, index]), rounding(torch.float32, OPERATIONS))


def test_a_compiler_sees_a_step_as_one_graph() -> None:
    torch._dynamo.reset()
    training = StackedTraining(TASK, "lattice:2^k+mamba2", SETTING, CPU)
    tokens, labels = batch_of(TASK, SETTING, 0, CPU)
    compiled = torch.compile(training._as_written, fullgraph=True, backend="eager")
    expected = training._as_written(training.stack.weights, tokens, labels)
    assert_close(compiled(training.stack.weights, tokens, labels), expected, rounding(torch.float32, OPERATIONS))


# What cannot be stacked ------------------------------------------------------------------------------------------


def test_a_mixer_without_heads_is_refused_by_name() -> None:
    with registered(), pytest.raises(MixerError, match=r"mixer 'sum' is not made of heads .*leave it out"):
        StackedTraining(TASK, "sum", SETTING, CPU)


def test_weights_that_serve_several_heads_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Mamba2Mixing.__init__

    def one_group_for_all(self: Mamba2Mixing, *arguments: object) -> None:
        before(self, *arguments)  # type: ignore[arg-type]
        self.norm = _Whole()  # type: ignore[assignment]

    monkeypatch.setattr(Mamba2Mixing, "__init__", one_group_for_all)
    with pytest.raises(MixerError, match="mixer 'mamba2' computes something else where models are stacked"):
        StackedTraining(TASK, "mamba2", SETTING, CPU)


class _Whole(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.norm(dim=-1, keepdim=True)


# The optimizer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [None, 0.5])
def test_each_row_steps_as_the_real_optimizer_would(clip: float | None) -> None:
    config, rates = OptimizerConfig(clip=clip), [1e-3, 3e-2]
    models = [nn.Linear(3, 2) for _ in rates]
    rows = torch.stack([torch.cat([p.detach().flatten() for p in model.parameters()]) for model in models])
    ours = StackedAdamW(rows, rates, torch.tensor([True] * 6 + [False] * 2), config, compiled=False)
    theirs = [
        GuardedAdamW(parameter_groups(model, config), clip=config.clip, lr=rate, betas=config.betas)
        for model, rate in zip(models, rates, strict=True)
    ]
    for step in range(6):
        gradient = torch.randn(2, 8)
        if step in (0, 3):
            gradient[1, 5] = float("nan")  # the other model goes on
        rows.grad = gradient.clone()
        ours.step(0.5)
        for model, optimizer, row, rate in zip(models, theirs, gradient, rates, strict=True):
            for parameter, part in zip(model.parameters(), row.split([6, 2]), strict=True):
                parameter.grad = part.view(parameter.shape).clone()
            for group in optimizer.param_groups:
                group["lr"] = 0.5 * rate
            optimizer.step()
    expected = torch.stack([torch.cat([p.detach().flatten() for p in model.parameters()]) for model in models])
    assert rows.grad is None
    assert_close(rows, expected, rounding(torch.float32, 6 * 20))


def test_only_matrices_outside_the_tables_decay() -> None:
    training = StackedTraining(TASK, "ssm", SETTING, CPU)
    decays, marked = training.optimizer._decay, training.stack.marked
    projections = {"head.weight", "blocks.1.mixer.v.weight", "blocks.0.mlp.down.weight"}
    assert decays[marked(projections)].tolist() == pytest.approx([0.1] * (128 * 32 + 128 * 128 + 128 * 384))
    vectors = {"norm.weight", "blocks.0.mixer.stages.0.skip"}
    assert not decays[marked({"embedding.weight"} | vectors)].any()


# Asking ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", TIMES)
def test_accuracy_is_the_share_of_right_answers(times: int) -> None:
    setting = SETTING.model_copy(update={"batch": 4 * 60, "sequences": 60})
    found = StackedTraining(TASK, "ssm", setting, CPU).accuracies(times).tolist()
    tokens, labels = TASK.draw(seed_of(TASK, "evaluation", times, 0), setting.sequences, times)
    asked = labels != IGNORED
    for (seed, _), share in zip(setting.members, found, strict=True):
        answers = build_model(TASK, "ssm", seed, conv=False, mlp=True)(tokens).argmax(-1)
        right = int((answers[asked] == labels[asked]).sum())
        # Logits that are all but equal may be ordered otherwise.
        assert abs(share - right / int(asked.sum())) <= 1 / int(asked.sum())
        assert right > 0


def test_sequences_that_fill_no_batch_are_asked_all_the_same() -> None:
    setting = Setting(seeds=1, rates=(1e-3,), batch=4, sequences=7)
    task, drawn = parse_task("copy:2"), []
    training = StackedTraining(task, "ssm", setting, CPU)
    training.stack.logits = lambda weights, tokens: drawn.append(tokens) or torch.zeros(*tokens.shape, 32)  # type: ignore
    assert training.accuracies(2).item() == 0  # the separator is no answer
    assert [len(tokens) for tokens in drawn] == [2, 2, 2, 1]
