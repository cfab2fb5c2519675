"""Groups of parameters: learning rates and decays of their own, by rules and by default."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from glm_scale.errors import UserError
from glm_scale.model import LanguageModel, ModelConfig
from glm_scale.training.config import GroupRule, OptimizerConfig, TrainingConfig
from glm_scale.training.distributed import quiet
from glm_scale.training.engine import Engine
from glm_scale.training.groups import group_keys, parameter_groups
from tests.training.test_engine import ACCUMULATION, CPU, LENGTH, SEQUENCES, micro_batches
from tests.whole_state import whole_state

CONFIG = ModelConfig(vocab_size=40, layers=2, width=12, heads=2, mlp_width=20, mixers=("lattice:2^k",))
RULES = [{"match": "embedding.*", "rate": 0.0}, {"match": "blocks.*.mlp.*", "weight_decay": 0.3}]


def test_rules_change_rates_and_decays_and_all_that_match_count() -> None:
    rules = (GroupRule(match="*.stages.0.d.*", rate=2, weight_decay=0.01), GroupRule(match="blocks.1.*", rate=3))
    keys = group_keys(LanguageModel(CONFIG), OptimizerConfig(weight_decay=0.1, groups=rules))
    assert (keys["blocks.0.mixer.v.weight"].rate, keys["blocks.0.mixer.v.weight"].weight_decay) == (1, 0.1)
    assert (keys["blocks.0.mixer.stages.0.d.bias"].rate, keys["blocks.1.mixer.stages.0.d.bias"].rate) == (2, 6)
    assert keys["blocks.0.mixer.stages.0.d.weight"].weight_decay == 0.01
    groups = parameter_groups(LanguageModel(CONFIG), OptimizerConfig(groups=rules))
    assert sum(len(group["params"]) for group in groups) == len(keys)
    assert len(groups) == len(set(keys.values()))


def test_a_rule_of_nothing_is_refused_and_what_is_near_is_named() -> None:
    config = OptimizerConfig(groups=(GroupRule(match="embeddings.weight"),))
    with pytest.raises(
        UserError, match=r"groups\[0\].match = 'embeddings.weight' is of none of the .* embedding.weight"
    ):
        group_keys(LanguageModel(CONFIG), config)
    with pytest.raises(ValidationError):
        GroupRule(match="", rate=-1)


@pytest.mark.numeric
@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("stage", [0, 1, 3])
def test_the_engine_steps_by_them(stage: int, tmp_path: Path) -> None:
    """A group that stands still, and one that decays more than it would."""
    settings = {
        "tokens": 1000, "batch_tokens": SEQUENCES * LENGTH * ACCUMULATION, "micro_batch": SEQUENCES,
        "zero_stage": stage,
    }  # fmt: skip
    found = []
    for rules in (RULES, []):
        torch.manual_seed(0)
        config = TrainingConfig.model_validate({**settings, "optimizer": {"groups": rules, "weight_decay": 0.0}})
        with quiet(tmp_path / "log"):
            engine = Engine(LanguageModel(CONFIG), config, ACCUMULATION, CPU)
        before = {name: state["weight"].clone() for name, state in whole_state(engine).items()}
        assert engine.step(micro_batches(0), 0.01).applied
        found.append((before, {name: state["weight"] for name, state in whole_state(engine).items()}))
    (before, ruled), (_, plain) = found
    assert torch.equal(ruled["embedding.weight"], before["embedding.weight"])
    assert not torch.equal(plain["embedding.weight"], before["embedding.weight"])
    mlp = "blocks.0.mlp.down.weight"
    decay = 0.01 * 0.3 * before[mlp]
    torch.testing.assert_close(ruled[mlp], plain[mlp] - decay, rtol=1e-5, atol=1e-7)
    # In another group, which lies elsewhere, other numbers share a vector.
    torch.testing.assert_close(ruled["head.weight"], plain["head.weight"], rtol=1e-5, atol=1e-7)
