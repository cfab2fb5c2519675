"""Recurrences and attention over sequence shards in real processes: what the simulator does, over gloo."""

import os

import pytest
import torch

from glm_kernels import ssm
from glm_scale.parallel.collectives.communicator import GroupCommunicator
from glm_scale.parallel.collectives.simulator import simulate
from glm_scale.parallel.sequence.attention import sharded_attention
from glm_scale.parallel.sequence.recurrence import ShardedRecurrence
from glm_scale.parallel.sequence.ssm import sharded_ssm
from tests.parallel.sequence.test_attention import alone as attention_alone
from tests.parallel.sequence.test_recurrence import alone, documents, operands, results, same
from tests.tolerances import assert_pass_close

pytestmark = pytest.mark.numeric


def one_shard(ranks, spelling, strategy, packed, size):
    """This rank's y and gradients, of operands that every rank can draw."""
    length = 24
    *inputs, grad = operands(2, size * length, size, torch.float32)
    starts = documents(2, size * length, size) if packed else None
    rows = slice(ranks.rank * length, (ranks.rank + 1) * length)
    leaves = [x[:, rows].clone().requires_grad_() for x in inputs]
    if spelling.startswith("attention"):
        q, k, v = leaves = leaves[:3]
        y = sharded_attention(q, k, v, ranks, strategy, window=window_of(spelling), document_starts=starts)
    elif spelling == "ssm":
        q, k, v, gate = leaves
        y = sharded_ssm(q, k, v, -gate.abs() / 8, ranks, strategy, document_starts=starts)
    else:
        q, k, v, d = leaves
        sharded = ShardedRecurrence(spelling, ranks, strategy)
        y = sharded.finish(sharded.begin(k, starts), q, v, d)
    return results(y, leaves, grad[:, rows])


def window_of(spelling):
    return int(spelling.partition(":")[2]) if ":" in spelling else None


def over_gloo(*arguments):
    return one_shard(GroupCommunicator(), *arguments)


def in_simulator(spelling, strategy, packed, size):
    return simulate(size, lambda rank: one_shard(rank, spelling, strategy, packed, size))


@pytest.mark.parametrize(
    ("spelling", "strategy", "size", "packed"),
    [
        ("lattice:2^k", "scan", 4, True),
        ("lattice:2^k", "ring", 4, False),
        ("lattice:k^2+1", "ring", 4, True),
        ("lattice:k^2+1", "scan", 2, False),
        ("window:30", "scan", 4, False),
        ("window:30", "ring", 2, True),
        ("dense", "a2a", 4, True),
        ("dense", "ring", 4, False),
        ("offsets:2^k", "a2a", 4, False),
        ("offsets:2^k", "ring", 4, True),
        ("attention", "ring", 4, True),
        ("attention:30", "ring", 4, False),
        ("attention:30", "a2a", 2, True),
        ("ssm", "scan", 4, True),
        ("ssm", "ring", 4, False),
        ("ssm", "a2a", 2, True),
    ],
)
def test_processes_equal_the_whole_rows(processes, spelling, strategy, size, packed):
    parts = processes.run(size, over_gloo, spelling, strategy, packed, size)
    found = [torch.cat(x, 1) for x in zip(*parts, strict=True)]
    inputs = operands(2, size * 24, size, torch.float32)
    starts = documents(2, size * 24, size) if packed else None
    inputs = [x.double() for x in inputs]
    if spelling.startswith("attention"):
        expected = attention_alone([*inputs[:3], inputs[4]], starts, window_of(spelling))
    elif spelling == "ssm":
        *inputs, grad = inputs
        q, k, v, gate = leaves = [x.clone().requires_grad_() for x in inputs]
        y, _ = ssm(q, k, v, -gate.abs() / 8, document_starts=starts, backend="reference")
        expected = results(y, leaves, grad)
    else:
        expected = alone(inputs, starts, spelling)
    # An SSM's decays are differences of running sums of logarithms, whose size becomes the error of what they weigh.
    decays = 1 + float(inputs[3].abs().sum(1).max()) / 8 if spelling == "ssm" else 1
    assert_pass_close(found, expected, decays * same(size * 24, torch.float32))
    # And what the simulator computes, bit for bit, with as many threads: sums depend on that.
    (simulated,) = processes.run(1, in_simulator, spelling, strategy, packed, size)
    assert all(torch.equal(x, torch.cat(y, 1)) for x, y in zip(found, zip(*simulated, strict=True), strict=True))


def dies():
    os._exit(3)


def fails_on_one(size):
    ranks = GroupCommunicator()
    if ranks.rank == 1:
        raise ValueError("rank 1 has had enough")
    return ranks.all_gather(torch.ones(2)).wait()


def test_the_pool_says_which_rank_failed_and_goes_on(processes):
    with pytest.raises(AssertionError, match="rank 1 has had enough"):
        processes.run(2, fails_on_one, 2)
    with pytest.raises(AssertionError, match="the process died"):
        processes.run(2, dies)
    assert len(processes.run(2, over_gloo, "lattice:2^k", "scan", False, 2)) == 2
