"""Muon in the engine: which weights it steps, and that its steps are those of its definition."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from glm_scale.model import LanguageModel, ModelConfig
from glm_scale.training.config import OptimizerConfig, TrainingConfig
from glm_scale.training.distributed import quiet
from glm_scale.training.engine import Engine
from glm_scale.training.groups import parameter_groups
from glm_scale.training.orthogonal import AMPLIFICATION
from tests.tolerances import assert_close, norm, rounding
from tests.training.test_engine import ACCUMULATION, CPU, LENGTH, SEQUENCES, micro_batches
from tests.whole_state import whole_state

pytestmark = pytest.mark.numeric

RATE, DECAY, MOMENTUM, STEPS = 0.01, 0.1, 0.9, 3
CONFIG = ModelConfig(vocab_size=40, layers=1, width=12, heads=2, mlp_width=20, mixers=("ssm:4",), conv_width=3)
MUON = OptimizerConfig(kind="muon", weight_decay=DECAY)
HIDDEN = {"v", "o", "stages.0.q", "stages.0.k", "stages.0.dt", "stages.0.gate"}


def test_it_steps_projections_and_nothing_else() -> None:
    model = LanguageModel(CONFIG)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, MUON)
    assert [group["hidden"] for group in groups] == [True, False, False]
    hidden = {names[id(parameter)] for parameter in groups[0]["params"]}
    assert {name for name in hidden if ".mixer." in name} == {f"blocks.0.mixer.{name}.weight" for name in HIDDEN}
    assert all(name.startswith("blocks.0.mlp.") for name in hidden if ".mixer." not in name)
    assert not {"embedding.weight", "head.weight"} & hidden
    assert sorted(len(group["params"]) for group in groups) == sorted([len(hidden), *_counts(model, hidden)])


def _counts(model: LanguageModel, hidden: set[str]) -> list[int]:
    """How many other matrices decay: the head, and a convolution; and what is left."""
    others = [name for name, parameter in model.named_parameters() if name not in hidden]
    decaying = [n for n in others if n == "head.weight" or n.endswith("conv.weight")]
    return [len(decaying), len(others) - len(decaying)]


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """By the definition, of the singular values one by one."""
    left, values, right = torch.linalg.svd(matrix / matrix.norm(), full_matrices=False)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left @ torch.diag(values) @ right


def by_hand(model: LanguageModel) -> None:
    """The same steps with float64 sums, and AdamW of torch for what is not hidden."""
    hidden, *others = parameter_groups(model, MUON)
    adamw = torch.optim.AdamW(others, lr=RATE, betas=(0.9, 0.95), eps=1e-8)
    momenta = [torch.zeros_like(p, dtype=torch.float64) for p in hidden["params"]]
    for step in range(STEPS):
        parts = micro_batches(step)
        model.zero_grad()
        loss = sum(model(b.tokens, document_starts=b.document_starts, labels=b.labels) for b in parts)
        (loss / sum((b.labels >= 0).sum() for b in parts)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for weight, momentum in zip(hidden["params"], momenta, strict=True):
            gradient = weight.grad.double()
            momentum.copy_(MOMENTUM * momentum + (1 - MOMENTUM) * gradient)
            direction = orthogonal(MOMENTUM * momentum + (1 - MOMENTUM) * gradient)
            scale = 0.2 * max(weight.shape) ** 0.5
            with torch.no_grad():
                weight.copy_((1 - RATE * DECAY) * weight.double() - RATE * scale * direction)
        adamw.step()


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("stage", range(4))
def test_its_steps_are_those_of_its_definition(stage: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, other = LanguageModel(CONFIG), LanguageModel(CONFIG)
    other.load_state_dict(model.state_dict())
    config = TrainingConfig.model_validate(
        {
            "tokens": 1000,
            "batch_tokens": SEQUENCES * LENGTH * ACCUMULATION,
            "micro_batch": SEQUENCES,
            "optimizer": {"kind": "muon", "learning_rate": RATE, "momentum": MOMENTUM, "weight_decay": DECAY},
            "zero_stage": stage,
        }
    )
    with quiet(tmp_path / "log"):
        engine = Engine(model, config, ACCUMULATION, CPU)
    for step in range(STEPS):
        assert engine.step(micro_batches(step), RATE).applied
    by_hand(other)
    state = whole_state(engine)
    # What the gradient's rounding is enlarged by, in matrices of which a step moves every singular value alike.
    moved = STEPS * RATE * 0.2 * 20**0.5 * AMPLIFICATION
    bound = rounding(torch.float32, SEQUENCES * LENGTH * ACCUMULATION + 6 * 20)
    for name, weight in other.named_parameters():
        assert_close(state[name]["weight"], weight, bound, norm(weight) + moved)
    kinds = {name: set(of) - {"weight"} for name, of in state.items()}
    hidden = {name for name, of in kinds.items() if of == {"exp_avg"}}
    assert all(of == {"exp_avg", "exp_avg_sq"} for name, of in kinds.items() if name not in hidden)
    assert len(hidden) == len(parameter_groups(other, MUON)[0]["params"])
    assert engine.state.applied_steps == STEPS


def test_momentum_is_asked_of_muon_alone() -> None:
    with pytest.raises(ValidationError, match="momentum belongs to kind: muon"):
        OptimizerConfig(momentum=0.9)
