"""When ranks exchange what, and how many bytes."""

import copy
import itertools
import re
import threading
from functools import partial
from typing import Any

import pytest
import torch

from glm_kernels import parse_pattern
from glm_scale.layers.rotary import Rotary
from glm_scale.layers.sequence import Sequence
from glm_scale.mixers.contract import MixerDims
from glm_scale.mixers.registry import parse_mixer
from glm_scale.parallel.axis import SequenceAxis
from glm_scale.parallel.collectives.communicator import Communicator, Pending
from glm_scale.parallel.collectives.simulator import simulate
from glm_scale.parallel.sequence import attention
from glm_scale.parallel.sequence.recurrence import ShardedRecurrence
from glm_scale.parallel.sequence.saving import taken_apart
from glm_scale.parallel.sequence.ssm import sharded_ssm
from tests.parallel.sequence.test_recurrence import operands


class Watched(Communicator):
    """A rank that notes when its all-gathers and receipts are started and awaited."""

    def __init__(self, ranks, events):
        self.rank, self.size = ranks.rank, ranks.size
        self._ranks, self._events = ranks, events

    def _noted(self, pending):
        self._events.append("started")

        def wait():
            self._events.append("awaited")
            return pending.wait()

        return Pending(wait)

    def all_gather(self, x):
        return self._noted(self._ranks.all_gather(x))

    def reduce_scatter(self, x):
        return self._ranks.reduce_scatter(x)

    def all_to_all(self, x):
        return self._ranks.all_to_all(x)

    def send(self, x, to):
        return self._ranks.send(x, to)

    def receive(self, like, source):
        return self._noted(self._ranks.receive(like, source))


def test_boundary_keys_travel_while_the_caller_works():
    *inputs, _ = operands(1, 64, 2)

    def work(rank):
        events: list[str] = []
        q, k, v, d = (x[:, rank.rank * 16 : (rank.rank + 1) * 16] for x in inputs)
        sharded = ShardedRecurrence("lattice:2^k", Watched(rank, events), "scan")
        begun = sharded.begin(k)
        events.append("projections of q, v and d")
        sharded.finish(begun, q, v, d)
        return events

    keys, summaries = ["started", "projections of q, v and d", "awaited"], ["started", "awaited"]
    assert simulate(4, work) == [keys + summaries] * 4


def test_boundary_keys_travel_while_a_mixer_projects():
    """Keys are projected first, and awaited only when queries and input logits are there too."""
    mixer = parse_mixer("lattice:2^k").build(MixerDims(8, 2, 4, Rotary(4, 1e4), 1e-5))
    x = torch.randn(1, 64, 8)

    def work(rank):
        events, mine = [], copy.deepcopy(mixer)
        for name in ("q", "k", "d"):
            mine.get_submodule(f"stages.0.{name}").register_forward_hook(lambda *_, name=name: events.append(name))
        axis = SequenceAxis(Watched(rank, events), "scan")
        rows = x[:, rank.rank * 16 : (rank.rank + 1) * 16]
        mine(rows, Sequence.of(16, Rotary(4, 1e4), x.device, None, axis))
        return events

    keys, summaries = ["k", "started", "q", "d", "awaited"], ["started", "awaited"]
    assert simulate(4, work) == [keys + summaries] * 4


def test_the_next_shard_travels_while_attention_works_on_one(monkeypatch):
    q, k, v, *_ = operands(1, 12, 1)
    here = threading.local()
    product = attention._product

    def noted(a, b):
        here.events.append("work")
        return product(a, b)

    monkeypatch.setattr(attention, "_product", noted)

    def work(rank):
        here.events = []
        rows = slice(rank.rank * 4, (rank.rank + 1) * 4)
        ranks = Watched(rank, here.events)
        attention.sharded_attention(q[:, rows], k[:, rows], v[:, rows], ranks, "ring")
        return [event for event, _ in itertools.groupby(here.events)]

    coming = ["started", "work", "awaited"]
    assert simulate(3, work) == [["work"], [*coming, "work"], [*coming, *coming, "work"]]


@pytest.mark.parametrize("strategy", ["scan", "ring", "a2a"])
def test_bytes_are_those_of_the_strategy(strategy):
    batch, length, heads, key, value, ranks = 2, 16, 4, 6, 5, 4
    *inputs, grad = operands(batch, ranks * length, heads, torch.float32, (key, value))

    def work(rank):
        rows = slice(rank.rank * length, (rank.rank + 1) * length)
        q, k, v, d = leaves = [x[:, rows].clone().requires_grad_() for x in inputs]
        sharded = ShardedRecurrence("lattice:2^k", rank, strategy)
        y = sharded.finish(sharded.begin(k), q, v, d)
        forward = sum(rank.sent.values())
        torch.autograd.grad(y, leaves, grad[:, rows])
        return forward, sum(rank.sent.values()) - forward

    slots = parse_pattern("lattice:2^k").slot_count(ranks * length)
    lanes, others = 4 * batch * heads, ranks - 1
    rows = batch * length * heads * 4
    expected = {
        "scan": [(lanes * others * slots * (key + slots + value), lanes * others * slots * (value + key))] * ranks,
        # The last rank has nobody to hand rows to, and the first nobody whose they are.
        "ring": [
            (lanes * slots * (key + value) * (rank < others), lanes * slots * (key + value) * (rank > 0))
            for rank in range(ranks)
        ],
        "a2a": [(rows * (2 * key + 2 * value + 1) * others // ranks,) * 2] * ranks,
    }[strategy]
    assert simulate(ranks, work) == expected


def test_a_rank_that_fails_ends_the_others():
    def work(rank):
        if rank.rank == 2:
            raise ValueError("rank 2 has had enough")
        rank.all_gather(torch.ones(2)).wait()

    with pytest.raises(ValueError, match="rank 2 has had enough"):
        simulate(4, work)


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda rank: rank.all_gather(torch.ones(rank.rank + 1)).wait(), "disagree about shape"),
        (
            lambda rank: (rank.all_gather if rank.rank else rank.reduce_scatter)(torch.ones(2, 2)).wait(),
            "all_gather on some ranks and reduce_scatter on others",
        ),
    ],
)
def test_ranks_that_disagree_are_told(work, message):
    with pytest.raises(RuntimeError, match=message):
        simulate(2, work)


def test_what_cannot_be_spread_is_said():
    def heads(rank):
        *inputs, _ = operands(1, 8, 3)
        sharded = ShardedRecurrence("dense", rank, "a2a")
        sharded.finish(sharded.begin(inputs[1]), inputs[0], *inputs[2:4])

    with pytest.raises(ValueError, match="3 heads cannot be shared out over 2 ranks"):
        simulate(2, heads)

    def spread(pattern, rank):
        ShardedRecurrence(pattern, rank, "scan")

    for pattern in ("offsets:2^k", "dense"):
        with pytest.raises(ValueError, match=f"rows of {re.escape(pattern)} cannot be spread over ranks by 'scan'"):
            simulate(2, partial(spread, pattern))


@pytest.mark.parametrize("spelling", ["lattice:2^k", "ssm", "attention"])
def test_what_is_kept_can_be_computed_again(spelling):
    """Activation checkpointing frees what autograd saved, and nothing else."""
    *inputs, _ = operands(1, 32, 2)

    def work(rank):
        q, k, v, gate = (x[:, rank.rank * 16 : (rank.rank + 1) * 16].clone().requires_grad_() for x in inputs)
        if spelling == "ssm":
            y = sharded_ssm(q, k, v, -gate.abs(), rank, "scan")
        elif spelling == "attention":
            y = attention.sharded_attention(q, k, v, rank, "ring")
        else:
            sharded = ShardedRecurrence(spelling, rank, "scan")
            y = sharded.finish(sharded.begin(k), q, v, gate)
        beside: list[torch.Tensor] = []
        made_by: Any = y.grad_fn
        for kept in vars(made_by).values():
            taken_apart(kept, beside)
        return len(beside), len(made_by.saved_tensors)

    for beside, saved in simulate(2, work):
        assert beside == 0
        assert saved >= 4
