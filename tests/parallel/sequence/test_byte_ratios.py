"""How many bytes long rows cost: one head of 128 in bf16 with fp32 summaries, forward and backward.

Bytes are linear in heads, so that 16 heads have the ratios of one.
"""

import torch
from torch import distributed as dist

from glm_kernels.sharding.recurrence import shard_of
from glm_scale.parallel.collectives.communicator import GroupCommunicator
from glm_scale.parallel.collectives.simulator import simulate
from glm_scale.parallel.sequence import recurrence
from glm_scale.parallel.sequence.recurrence import ShardedRecurrence


def there_and_back(ranks, spelling, strategy, total, heads, head_dim):
    """One forward and one backward pass of this rank's rows."""
    numbers = torch.arange(total // ranks.size * heads * head_dim).sin().bfloat16().view(1, -1, heads, head_dim)
    q, k, v, d = leaves = [x.clone().requires_grad_() for x in (numbers, numbers, numbers, numbers[..., 0])]
    sharded = ShardedRecurrence(spelling, ranks, strategy)
    y = sharded.finish(sharded.begin(k), q, v, d)
    torch.autograd.grad(y, leaves, torch.ones_like(y))


def simulated(*arguments, size):
    """Bytes that the rank sends that sends most."""
    spelling, _, total, *_ = arguments
    shard_of(spelling, 1, 0, total // size, total)  # Makes tables that else the thread of every rank would make.

    def work(rank):
        there_and_back(rank, *arguments)
        return rank.sent.total()

    return max(simulate(size, work))


def test_boundaries_of_long_rows_are_a_hundredth_of_an_exchange_for_heads(monkeypatch):
    """131,072 rows over 8 ranks, counted on real rows in the simulator."""
    total, size = 131_072, 8
    few = simulated("lattice:2^k", "scan", total, 1, 128, size=size)
    more = simulated("lattice:k^2+1", "ring", total, 1, 128, size=size)
    # What an all-to-all sends does not depend on what is done with it. Eight heads of 16 have the numbers of one of
    # 128, but for the logits d of seven more: two bytes a row, in both passes.
    monkeypatch.setattr(recurrence, "whole_recurrence", lambda q, k, v, d, *_, **__: (q + k + v + d.unsqueeze(3), None))
    everything = simulated("window:1", "a2a", total, size, 16, size=size)
    everything -= 7 * 2 * total // size * 2 * (size - 1) // size
    assert few <= everything / 100
    assert more <= everything / 40


def counted(size, *arguments):
    """Bytes that this process sends, by the functions of torch.distributed that send them."""
    sent = []

    def watch(name, bytes_of):
        original = getattr(dist, name)

        def watched(*given, **named):
            sent.append(bytes_of(*given))
            return original(*given, **named)

        setattr(dist, name, watched)
        return name, original

    originals = [
        watch("all_gather_into_tensor", lambda found, x, *_: (size - 1) * x.nbytes),
        watch("reduce_scatter_tensor", lambda found, x, *_: x.nbytes // size * (size - 1)),
        watch("all_to_all_single", lambda found, x, *_: x.nbytes // size * (size - 1)),
        watch("isend", lambda x, *_: x.nbytes),
    ]
    try:
        there_and_back(GroupCommunicator(), *arguments)
    finally:
        for name, original in originals:
            setattr(dist, name, original)
    return sum(sent)


def test_processes_send_what_the_simulator_counts(processes):
    """8,192 rows over 4 processes."""
    total, size, heads = 8192, 4, 4

    def bytes_of(spelling, strategy):
        arguments = spelling, strategy, total, heads, 128
        found = max(processes.run(size, counted, size, *arguments))
        assert found == simulated(*arguments, size=size)
        return found

    everything = bytes_of("lattice:2^k", "a2a")
    assert bytes_of("lattice:2^k", "scan") <= everything / 40
    assert bytes_of("lattice:k^2+1", "ring") <= everything / 40
