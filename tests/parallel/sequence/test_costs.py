"""What the cost model says that ranks send is what they send, and it chooses as it should."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from glm_scale.layers.rotary import Rotary
from glm_scale.layers.sequence import Sequence
from glm_scale.mixers.contract import MixerDims
from glm_scale.mixers.registry import parse_mixer
from glm_scale.parallel.axis import SequenceAxis
from glm_scale.parallel.collectives.simulator import simulate
from glm_scale.parallel.sequence.costs import Link, Spread, Traffic, cheapest
from tests.parallel.sequence.test_recurrence import documents

MIXERS = [
    "lattice:2^k", "lattice:k^2+1", "window:5", "window:60", "dense", "offsets:2^k", "offsets:3^k", "offsets:7*k+5",
    "ssm:6", "mamba2:6", "gla:6", "gated_deltanet:6", "kda:6", "log_linear:6",
    "attention", "local:1", "local:9", "local:40",
]  # fmt: skip


def built(spelling, heads, head_dim):
    rotary = Rotary(head_dim, 1e4)
    return parse_mixer(spelling).build(MixerDims(16, heads, head_dim, rotary, 1e-5))


@pytest.mark.parametrize(
    ("ranks", "batch", "length", "heads", "head_dim", "dtype"),
    [
        (4, 2, 16, 4, 6, torch.float32),
        (4, 1, 13, 8, 4, torch.bfloat16),
        (3, 1, 32, 6, 4, torch.float64),
        (8, 1, 8, 8, 2, torch.bfloat16),
        (2, 3, 9, 2, 8, torch.float32),
    ],
)
@pytest.mark.parametrize("spelling", MIXERS)
def test_bytes_are_those_that_ranks_send(spelling, ranks, batch, length, heads, head_dim, dtype):
    torch.manual_seed(0)
    mixer = built(spelling, heads, head_dim).to(dtype)
    whole = torch.randn(batch, ranks * length, 16, dtype=dtype)
    starts = documents(batch, ranks * length, ranks)

    def sent_by(strategy):
        def work(rank):
            rows = slice(rank.rank * length, (rank.rank + 1) * length)
            x = whole[:, rows].clone().requires_grad_()
            axis = SequenceAxis(rank, strategy)
            sequence = Sequence.of(length, Rotary(head_dim, 1e4), x.device, starts[:, rows], axis)
            before = rank.sent.total()
            y = mixer(x, sequence)
            forward = rank.sent.total() - before
            torch.autograd.grad(y.sum(), x)
            return forward, rank.sent.total() - before - forward

        return simulate(ranks, work)

    assert mixer.sequence_strategies
    for strategy in mixer.sequence_strategies:
        spread = Spread(ranks, batch, length, heads, head_dim, dtype.itemsize)
        traffic = mixer.stages[0].traffic(strategy, spread)
        sent = sent_by(strategy)
        assert sent == list(zip(traffic.forward, traffic.backward, strict=True)), strategy
        assert [sum(both) for both in sent] == [traffic.sent(rank) for rank in range(ranks)]


@pytest.mark.parametrize(
    ("spelling", "heads", "chosen"),
    [
        ("lattice:2^k", 16, "scan"),
        ("lattice:k^2+1", 16, "a2a"),
        ("lattice:k^2+1", 12, "ring"),
        ("ssm:128", 16, "scan"),
        ("mamba2", 16, "scan"),
        ("window:16", 16, "scan"),
        ("window:1000", 16, "a2a"),
        ("window:1000", 12, "ring"),
        ("dense", 16, "a2a"),
        ("dense", 12, "ring"),
        ("offsets:2^k", 16, "a2a"),
        ("attention", 16, "a2a"),
        ("attention", 12, "ring"),
        ("local:128", 16, "ring"),
    ],
)
def test_the_cheapest_strategy_of_long_rows_over_eight_ranks(spelling, heads, chosen, monkeypatch):
    """131,072 rows, heads of 128, bf16: what a mixer takes for itself."""
    with torch.device("meta"):
        mixer = built(spelling, heads, 128)
    taken = []

    def forward(x, v, sequence):
        taken.append(sequence.axis.strategy)
        return v

    monkeypatch.setattr(mixer.stages[0], "forward", forward)
    x = torch.empty(1, 131_072 // 8, 16, dtype=torch.bfloat16, device="meta")
    for rank in (0, 7):
        of_eight: Any = SimpleNamespace(rank=rank, size=8)  # nothing is sent
        axis = SequenceAxis(of_eight)
        mixer.to(torch.bfloat16)(x, Sequence.of(1, Rotary(128, 1e4), torch.device("cpu"), None, axis))
    assert taken == [chosen] * 2


def test_a_strategy_that_was_asked_for_is_taken():
    mixer = built("lattice:2^k", 4, 4)

    def work(rank):
        x = torch.randn(1, 8, 16)
        mixer(x, Sequence.of(8, Rotary(4, 1e4), x.device, None, SequenceAxis(rank, "ring")))
        return set(rank.sent)

    assert simulate(2, work) == [{"send"}, set()]


def test_slow_links_and_slow_steps_weigh_bytes_and_steps():
    few = Traffic({"send": (10, 0)}, {"send": (0, 10)}, steps=30)
    many = Traffic({"all_gather": (500, 500)}, {"all_gather": (500, 500)}, steps=2)
    assert many.seconds(Link(100.0, 0.5)) == pytest.approx(1000 / 100 + 2 * 0.5)
    assert cheapest({"scan": many, "ring": few}, link=Link(1e9, 1e-3)) == "scan"
    assert cheapest({"scan": many, "ring": few}, link=Link(1e3, 1e-3)) == "ring"
    assert cheapest({"scan": few, "ring": few}) == "scan"


def test_what_a_rank_waits_for_weighs_as_the_work_does():
    sends = Traffic({"all_to_all": (50, 50)}, {"all_to_all": (50, 50)}, steps=2)
    waits = Traffic({"send": (10, 0)}, {"send": (0, 10)}, steps=2, idle=0.25)
    link = Link(10.0, 0.0, 8.0)
    assert waits.seconds(link, 64.0) == pytest.approx(2 + 0.25 * 64 / 8)
    assert cheapest({"a2a": sends, "ring": waits}, 200.0, link) == "ring"
    assert cheapest({"a2a": sends, "ring": waits}, 300.0, link) == "a2a"


def test_a_pipeline_of_ranks_waits_for_its_first_head_group():
    """Through 8 ranks go 7 messages in a row, each a group of heads; then come the other groups."""
    spread = Spread(ranks=8, batch=1, length=64, heads=8, head_dim=4, itemsize=2)
    traffic = built("lattice:2^k", 8, 4).stages[0].traffic("ring", spread)
    message = max(traffic.forward)
    assert traffic.steps == 2 * (7 + 3)
    assert traffic.fill == 2 * 6 * message / 4
    assert traffic.idle == 7 / 4
