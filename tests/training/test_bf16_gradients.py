"""Gradients taken together are those that DeepSpeed takes one by one, bit for bit."""

import pytest
import torch
from torch import nn

from glm_scale.training import engine as engine_module
from glm_scale.training.bf16_gradients import handle_gradients_together
from glm_scale.training.engine import Limits
from tests.training.test_engine import TinyModel, make_engine, run
from tests.whole_state import whole_state

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("process_group")]


class PartlyUnused(TinyModel):
    """Has a weight that no loss depends on, and one that every second forward pass leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.ones(5))
        self.at_times = nn.Parameter(torch.ones(16))
        self.passes = 0

    def forward(self, tokens, document_starts, labels):
        self.passes += 1
        loss = super().forward(tokens, document_starts, labels)
        return loss if self.passes % 2 else loss * self.at_times.mean().to(loss.dtype)


def refused_in_between(engine):
    """Five steps, the third of which is refused for its gradient."""
    results = run(engine, [0, 1])
    engine.model.fault = "nan"
    results += run(engine, [2])
    engine.model.fault = None
    return results + run(engine, [3, 4], Limits(loss=100.0, grad_norm=1e6))


def measured_together(engine, replica_group, whole):
    """DeepSpeed's own way, but for the norm, whose sum rounds in another order, and without the cast to bf16 of what
    no other rank gets."""
    zero = engine.optimizer
    update, clear = zero.update_hp_grads, zero.clear_hp_grads
    handle_gradients_together(engine, replica_group, whole=whole)
    zero.update_hp_grads, zero.clear_hp_grads = update, clear


@pytest.mark.exact
@pytest.mark.parametrize("model", [TinyModel, PartlyUnused])
def test_no_bit_of_a_run_depends_on_it(tmp_path, monkeypatch, model):
    together = make_engine("bf16", 1, tmp_path, model())
    found = refused_in_between(together)
    with monkeypatch.context() as patch:
        patch.setattr(engine_module, "handle_gradients_together", measured_together)
        one_by_one = make_engine("bf16", 1, tmp_path, model())
    expected = refused_in_between(one_by_one)
    assert [repr(result) for result in found] == [repr(result) for result in expected]
    ours, theirs = whole_state(together), whole_state(one_by_one)
    assert ours.keys() == theirs.keys()
    for name, state in ours.items():
        for kind, tensor in state.items():
            assert torch.equal(tensor, theirs[name][kind]), (name, kind)


def test_bf16_gradients_are_given_up_once_they_are_taken(tmp_path):
    engine = make_engine("bf16", 1, tmp_path)
    run(engine, [0])
    assert all(parameter.grad is None for parameter in engine.model.parameters())


def test_what_a_step_leaves_is_no_part_of_the_next(tmp_path):
    engine = make_engine("bf16", 1, tmp_path)
    run(engine, [0])
    zero = engine.deepspeed.optimizer
    for flat in zero.fp32_groups_gradients_flat:
        flat.fill_(torch.nan)
    assert all(result.applied for result in run(engine, [1]))
