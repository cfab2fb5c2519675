"""One step of the engine, in every combination of precision and ZeRO stage that is offered."""

import gc
import math
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from glm_scale.model import LanguageModel, ModelConfig
from glm_scale.training.config import OptimizerConfig, TrainingConfig
from glm_scale.training.distributed import quiet
from glm_scale.training.engine import Engine, Limits, StepResult
from glm_scale.training.groups import parameter_groups
from tests.tolerances import TOO_FAR, loss_curve, norm, rounding
from tests.whole_state import set_whole_state, whole_state

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("process_group")]

LAYOUTS = [("fp32", 0), ("fp32", 1), ("fp32", 2), ("fp32", 3), ("bf16", 1), ("bf16", 2), ("bf16", 3)]
CPU = torch.device("cpu")
VOCABULARY, SEQUENCES, LENGTH, ACCUMULATION = 40, 2, 8, 3
RATE, CLIP = 0.01, 0.5
OPERATIONS = 2 * (SEQUENCES * LENGTH * ACCUMULATION + 2 * 16 + 40)
"""Sums over tokens, of up to 16 products in two layers and of 40 in the loss, forward and backward."""
LIMITS = Limits(loss=100.0, grad_norm=50.0)


@dataclass
class Batch:
    tokens: Tensor
    labels: Tensor
    document_starts: Tensor


class TinyModel(nn.Module):
    """Stands for a language model; `fault` spoils its next losses."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embedding = nn.Embedding(VOCABULARY, 12)
        self.inner = nn.Linear(12, 16)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, VOCABULARY, bias=False)
        self.fault: str | None = None

    def forward(self, tokens: Tensor, document_starts: Tensor, labels: Tensor) -> Tensor:
        logits = self.head(self.norm(torch.tanh(self.inner(self.embedding(tokens))))).float()
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
        if self.fault == "infinite loss with finite gradient":
            return loss + torch.inf
        if self.fault == "large loss":
            return loss + 1e4
        if self.fault == "large gradient":
            return loss + 1e3 * (loss - loss.detach())
        return loss * torch.nan if self.fault == "nan" else loss


def micro_batches(step: int) -> list[Batch]:
    """Micro-batches with very different numbers of valid labels."""
    draw = torch.Generator().manual_seed(step)
    made = []
    for index in range(ACCUMULATION):
        tokens, labels = torch.randint(VOCABULARY, (2, SEQUENCES, LENGTH), generator=draw)
        labels[:, : 3 * index] = -100
        made.append(Batch(tokens, labels, torch.zeros(SEQUENCES, LENGTH, dtype=torch.int32)))
    return made


def make_engine(precision: str, stage: int, folder: Path, model: nn.Module | None = None) -> Engine:
    config = TrainingConfig.model_validate(
        {
            "tokens": 1000,
            "batch_tokens": SEQUENCES * LENGTH * ACCUMULATION,
            "micro_batch": SEQUENCES,
            "optimizer": {"clip": CLIP, "learning_rate": RATE},
            "precision": precision,
            "zero_stage": stage,
        }
    )
    with quiet(folder / "log"):
        return Engine(model or TinyModel(), config, ACCUMULATION, CPU)


def run(engine: Engine, steps: Sequence[int], limits: Limits | None = None) -> list[StepResult]:
    return [engine.step(micro_batches(step), RATE, limits=limits) for step in steps]


@dataclass
class Curve:
    """Losses and gradient norms. `cancellation`: by how much the gradients of the single tokens, all their norms
    summed, are larger than their sum, in the step in which it is most."""

    losses: list[float]
    norms: list[float]
    cancellation: float = 1.0


def plain_torch(steps: int, clip: float = CLIP, scale: float = 1.0) -> Curve:
    """A plain loop over whole batches, the judge of the engine. `clip` and `scale`, of gradients: to plant faults."""
    model = TinyModel()
    optimizer = torch.optim.AdamW(parameter_groups(model, OptimizerConfig()), lr=RATE, betas=(0.9, 0.95), eps=1e-8)
    curve = Curve([], [])
    for step in range(steps):
        parts = micro_batches(step)
        whole = [
            torch.cat([getattr(part, field) for part in parts]) for field in ("tokens", "document_starts", "labels")
        ]
        count = (whole[2] >= 0).sum()
        loss = model(*whole) / count
        optimizer.zero_grad()
        (loss * scale).backward()
        total = torch.nn.utils.clip_grad_norm_(model.parameters(), clip).item()
        summed = sum(token_gradients(model, *whole)) / count.item()
        optimizer.step()
        curve.losses.append(loss.item())
        curve.norms.append(total)
        curve.cancellation = max(curve.cancellation, summed * scale / total)
    return curve


def token_gradients(model: nn.Module, tokens: Tensor, starts: Tensor, labels: Tensor) -> Iterator[float]:
    """The norm of every token's gradient."""
    weights = list(model.parameters())
    for row, column in (labels >= 0).nonzero().tolist():
        one = slice(row, row + 1), slice(column, column + 1)
        yield norm(*torch.autograd.grad(model(tokens[one], starts[one], labels[one]), weights))


def tolerance(precision: str, steps: int) -> float:
    if precision == "fp32":
        return loss_curve(OPERATIONS, steps)
    # Of each token the outputs of four layers are rounded; between tokens errors average out.
    return rounding(torch.bfloat16, 4) * (SEQUENCES * LENGTH * ACCUMULATION) ** -0.5


def assert_follows(found: Sequence[StepResult], expected: Curve, bound: float) -> None:
    for kind, ours, theirs, allowed in (
        ("losses", [result.loss for result in found], expected.losses, bound),
        ("norms", [result.grad_norm for result in found], expected.norms, bound * expected.cancellation),
    ):
        assert ours == pytest.approx(theirs, rel=allowed), f"{TOO_FAR}: {kind} {ours} instead of {theirs}"


def snapshot(engine: Engine) -> dict[str, Tensor]:
    return {f"{name}/{kind}": tensor for name, state in whole_state(engine).items() for kind, tensor in state.items()}


@pytest.fixture(params=LAYOUTS, ids=lambda layout: f"{layout[0]}-zero{layout[1]}")
def layout(request: pytest.FixtureRequest) -> tuple[str, int]:
    return request.param


def test_follows_plain_torch_on_the_whole_batch(layout: tuple[str, int], tmp_path: Path) -> None:
    found, expected, bound = run(make_engine(*layout, tmp_path), range(5)), plain_torch(5), tolerance(layout[0], 5)
    assert expected.norms[0] > CLIP, "the test must clip"
    assert_follows(found, expected, bound)
    # The bounds are narrow enough for the mistakes that engines make. AdamW is deaf to the size of gradients but for
    # its changes, so that bf16 hides what clipping does.
    mistakes = [{"scale": ACCUMULATION / other} for other in (ACCUMULATION - 1, ACCUMULATION + 1)]
    for mistake in mistakes if layout[0] == "bf16" else [*mistakes, {"clip": math.inf}]:
        with pytest.raises(AssertionError, match=TOO_FAR):
            assert_follows(found, plain_torch(5, **mistake), 5 * bound)


@pytest.mark.parametrize("stage", [1, 2])
def test_every_weight_begins_where_it_can_be_read_in_vectors(stage: int, tmp_path: Path) -> None:
    """Else code compiled for one layer reads another layer's weights at addresses that the GPU refuses."""
    config = ModelConfig(vocab_size=50, layers=2, width=24, heads=3, mixers=("lattice:2^k", "ssm"), conv_width=4)
    engine = make_engine("bf16", stage, tmp_path, LanguageModel(config))
    weights = dict(engine.model.named_parameters())
    assert {weight.numel() % 8 for weight in weights.values()} >= {0, 3}
    misplaced = [
        name
        for name, weight in weights.items()
        if weight.data_ptr() % (weight.element_size() * math.gcd(weight.numel(), 8))
    ]
    assert misplaced == []


@pytest.mark.exact
@pytest.mark.parametrize("limits", [None, LIMITS], ids=["without limits", "with limits"])
def test_a_bad_step_changes_nothing_and_leaves_nothing_behind(
    layout: tuple[str, int], limits: Limits | None, tmp_path: Path
) -> None:
    model = TinyModel()
    engine = make_engine(*layout, tmp_path, model)
    run(engine, range(2))
    before, steps = snapshot(engine), engine.state.applied_steps
    faults = {"nan": "", "infinite loss with finite gradient": ""}
    if limits:
        faults |= {"large loss": "loss 1", "large gradient": "gradient norm "}
    for model.fault, spike in faults.items():
        (refused,) = run(engine, [99], limits)
        assert not refused.applied
        assert (refused.spike[: len(spike)], bool(refused.spike)) == (spike, bool(spike))
        after = snapshot(engine)
        assert engine.state.applied_steps == steps == 2
        for name, tensor in before.items():
            assert torch.equal(after[name], tensor), (model.fault, name)
    model.fault = None
    untroubled = make_engine(*layout, tmp_path)
    run(untroubled, range(2))
    assert run(engine, range(2, 4), limits) == run(untroubled, range(2, 4))


@pytest.mark.exact
def test_state_moves_to_a_fresh_engine_bit_for_bit(layout: tuple[str, int], tmp_path: Path) -> None:
    engine = make_engine(*layout, tmp_path)
    run(engine, range(3))
    saved = whole_state(engine)
    steps = engine.state.applied_steps
    model = TinyModel()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    fresh = make_engine(*layout, tmp_path, model)
    set_whole_state(fresh, saved)
    fresh.state.applied_steps = steps
    with torch.no_grad():
        assert torch.equal(fresh.forward(micro_batches(7)[0]), engine.forward(micro_batches(7)[0]))
    assert run(fresh, range(3, 6)) == run(engine, range(3, 6))


@pytest.mark.parametrize(("source", "target"), [(0, 3), (3, 1), (2, 0)])
def test_state_moves_between_zero_stages(source: int, target: int, tmp_path: Path) -> None:
    engine, other = make_engine("fp32", source, tmp_path), make_engine("fp32", target, tmp_path)
    run(engine, range(3))
    set_whole_state(other, whole_state(engine))
    other.state.applied_steps = engine.state.applied_steps
    losses = [result.loss for result in run(engine, range(3, 6))]
    assert [result.loss for result in run(other, range(3, 6))] == pytest.approx(
        losses, rel=loss_curve(OPERATIONS, steps=3)
    )


def test_the_first_rate_counts(tmp_path: Path) -> None:
    engine = make_engine("fp32", 1, tmp_path)
    before = snapshot(engine)
    engine.step(micro_batches(0), 0.0)
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in snapshot(engine).items() if name.endswith("weight")
    )


def test_a_step_of_the_wrong_size_is_refused(tmp_path: Path) -> None:
    engine = make_engine("fp32", 0, tmp_path)
    with pytest.raises(ValueError, match="3 micro-batches, got 2"):
        engine.step(micro_batches(0)[:2], RATE)


# ZeRO-3's hooks keep the model all the same; its runs have several processes, which end with them.
@pytest.mark.exact
@pytest.mark.parametrize(("precision", "stage"), [("fp32", 0), ("fp32", 1), ("fp32", 2), ("bf16", 1), ("bf16", 2)])
def test_a_closed_engine_leaves_nothing_of_its_model(precision: str, stage: int, tmp_path: Path) -> None:
    """Of the runs that one process trains one after the other no weight and no moment stays."""
    engine = make_engine(precision, stage, tmp_path)
    run(engine, [0])
    left: list[weakref.ref[object]] = [weakref.ref(parameter) for parameter in engine.model.parameters()]
    left.append(weakref.ref(engine))
    engine.close()
    del engine
    gc.collect()
    assert not [each for each in left if each() is not None]
