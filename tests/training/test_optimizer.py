import pytest
import torch
from torch import nn

from glm_scale.model import LanguageModel, ModelConfig
from glm_scale.training.config import OptimizerConfig
from glm_scale.training.groups import parameter_groups
from glm_scale.training.optimizer import GuardedAdamW, build_optimizer

pytestmark = pytest.mark.numeric


def test_only_matrices_that_are_no_embedding_decay() -> None:
    model = LanguageModel(ModelConfig(vocab_size=50, layers=1, width=16, heads=2, conv_width=4))
    decayed, kept = parameter_groups(model, OptimizerConfig())
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert all(parameter.ndim >= 2 for parameter in decayed["params"])
    kept_ids = {id(parameter) for parameter in kept["params"]}
    assert id(model.embedding.weight) in kept_ids
    assert id(model.head.weight) not in kept_ids
    assert len(decayed["params"]) + len(kept["params"]) == len(list(model.parameters()))


def test_a_tied_head_does_not_decay() -> None:
    model = LanguageModel(ModelConfig(vocab_size=50, layers=1, width=16, heads=2, tie_embeddings=True))
    decayed, _ = parameter_groups(model, OptimizerConfig())
    assert all(parameter is not model.head.weight for parameter in decayed["params"])


@pytest.mark.parametrize("clip", [0.05, None])
def test_guarded_step_equals_torch_clipping_and_adamw(clip: float | None) -> None:
    torch.manual_seed(0)
    guarded_model, plain_model = nn.Linear(5, 3), nn.Linear(5, 3)
    plain_model.load_state_dict(guarded_model.state_dict())
    config = OptimizerConfig(learning_rate=0.1, clip=clip)
    guarded = build_optimizer(guarded_model, config, guarded=True, fused=False)
    plain = build_optimizer(plain_model, config, guarded=False, fused=False)
    assert isinstance(guarded, GuardedAdamW)
    for _ in range(3):
        x = torch.randn(4, 5)
        for model in (guarded_model, plain_model):
            model.zero_grad()
            model(x).square().sum().backward()
        norm = torch.nn.utils.clip_grad_norm_(plain_model.parameters(), clip or float("inf"))
        plain.step()
        guarded.step()
        assert guarded._global_grad_norm == norm
        assert torch.equal(guarded_model.weight, plain_model.weight)
