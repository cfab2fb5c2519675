"""Whole models over sequence shards: ranks with parts of the rows give the loss and the gradients of all of them."""

import copy

import pytest
import torch
from torch import Tensor

from glm_scale.mixers.contract import MixerError
from glm_scale.model.config import ModelConfig
from glm_scale.model.transformer import LanguageModel
from glm_scale.parallel.axis import SequenceAxis
from glm_scale.parallel.collectives.simulator import simulate
from tests.parallel.sequence.test_recurrence import documents
from tests.parallel.training import DECAYING, norm_epsilon
from tests.tolerances import assert_close, error, norm, rounding

pytestmark = pytest.mark.numeric

MIXERS = {
    "attention": ("a2a", "ring"),
    "local:5": ("a2a", "ring"),
    "local:20": ("a2a", "ring"),
    "ssm:4": ("scan", "ring", "a2a"),
    "mamba2:4": ("scan", "ring", "a2a"),
    "gla:4": ("scan", "ring", "a2a"),
    "gated_deltanet:4": ("scan", "ring", "a2a"),
    "kda:4": ("scan", "ring", "a2a"),
    "log_linear:4": ("a2a",),
    "window:3": ("scan", "ring", "a2a"),
    "dense": ("a2a", "ring"),
    "lattice:2^k": ("scan", "ring", "a2a"),
    "lattice:k^2+1": ("scan", "ring", "a2a"),
    "offsets:2^k": ("a2a", "ring"),
    "offsets:k^2+1": ("a2a", "ring"),
    "local:5 > lattice:2^k": ("ring", "a2a"),
    "attention > offsets:2^k": ("a2a", "ring"),
}
RANKS, LENGTH = 4, 12
OPERATIONS = 2 * 2 * (RANKS * LENGTH + 6 * 32)
"""Of two layers, forward and backward: sums over rows and in six products with matrices of up to 32 rows."""


def model(mixers, **changes):
    made = LanguageModel(
        ModelConfig(
            layers=2,
            width=16,
            heads=4,
            mixers=mixers,
            vocab_size=32,
            conv_width=3,
            norm_eps=norm_epsilon(mixers),
            **changes,
        )
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return made.double()


def batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 32, (2, RANKS * LENGTH), generator=generator)
    labels = torch.randint(0, 32, (2, RANKS * LENGTH), generator=generator)
    labels[0, ::5] = -100
    return tokens, documents(2, RANKS * LENGTH, RANKS), labels


def loss_and_gradients(model, tokens, starts, labels):
    loss = model(tokens, document_starts=starts, labels=labels)
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


def over_ranks(whole, tokens, starts, labels, strategy=None):
    def work(rank):
        mine = copy.deepcopy(whole)
        mine.sequence_axis = SequenceAxis(rank, strategy)
        rows = slice(rank.rank * LENGTH, (rank.rank + 1) * LENGTH)
        return loss_and_gradients(mine, tokens[:, rows], starts[:, rows], labels[:, rows])

    return [sum(parts) for parts in zip(*simulate(RANKS, work), strict=True)]


def assert_same(found, expected, mixers):
    """What is computed in float64 is held to that: not decays (float32), nor the loss and the head's gradient."""
    (loss, *gradients, head), (expected_loss, *expected_gradients, expected_head) = found, expected
    dtype = torch.float32 if any(mixer.startswith(DECAYING) for mixer in mixers) else torch.float64
    assert_close(gradients, expected_gradients, rounding(dtype, OPERATIONS), norm(*expected_gradients))
    assert_close([loss, head], [expected_loss, expected_head], rounding(torch.float32, RANKS * LENGTH))


@pytest.mark.parametrize(
    ("mixers", "strategy"),
    [
        *(([mixer], strategy) for mixer, strategies in MIXERS.items() for strategy in strategies),
        (["lattice:2^k", "attention"], None),
        (["ssm:4", "lattice:k^2+1"], "ring"),
    ],
)
def test_loss_and_gradients_are_those_of_one_device(mixers, strategy):
    whole, (tokens, starts, labels) = model(mixers), batch()
    expected = loss_and_gradients(whole, tokens, starts, labels)
    found = over_ranks(whole, tokens, starts, labels, strategy)
    assert_same(found, expected, mixers)


@pytest.mark.parametrize("strategy", ["scan", "ring"])
def test_recomputed_activations_exchange_the_same_again(strategy):
    mixers = {"scan": ["lattice:2^k", "ssm:4"], "ring": ["local:20 > lattice:2^k", "offsets:2^k"]}[strategy]
    whole, (tokens, starts, labels) = model(mixers), batch()
    expected = loss_and_gradients(whole, tokens, starts, labels)
    whole.activation_checkpointing = "full"
    found = over_ranks(whole, tokens, starts, labels, strategy)
    assert_same(found, expected, mixers)


@pytest.mark.parametrize("mixer", [mixer for mixer in MIXERS if not mixer.startswith("local") or ">" in mixer])
def test_early_tokens_reach_late_ones_across_ranks(mixer):
    """No rank takes its shard for a whole sequence: the second token changes the last rank's logits."""
    whole = model([mixer])
    tokens, _, _ = batch()
    starts = torch.zeros_like(tokens, dtype=torch.int32)

    def last_logits(tokens):
        def work(rank):
            mine = copy.deepcopy(whole)
            mine.sequence_axis = SequenceAxis(rank)
            rows = slice(rank.rank * LENGTH, (rank.rank + 1) * LENGTH)
            return mine(tokens[:, rows], document_starts=starts[:, rows]).detach()

        return simulate(RANKS, work)[-1]

    changed = tokens.clone()
    changed[:, 1] = (changed[:, 1] + 1) % 32
    assert error(last_logits(changed), last_logits(tokens)) > 1e4 * rounding(torch.float64, OPERATIONS)


def test_what_a_mixer_cannot_do_is_refused():
    with pytest.raises(MixerError, match=r"'offsets:2\^k' cannot .* by 'scan'; it can by 'a2a' or 'ring'"):
        over_ranks(model(["offsets:2^k"]), *batch(), strategy="scan")


def test_a_mixer_that_names_no_strategy_never_sees_a_shard(monkeypatch):
    whole = model(["lattice:2^k"])
    monkeypatch.setattr(whole.blocks[1].mixer, "sequence_strategies", ())
    with pytest.raises(MixerError, match=r"cannot split the sequence axis \(context parallelism\); .* one rank"):
        over_ranks(whole, *batch())
