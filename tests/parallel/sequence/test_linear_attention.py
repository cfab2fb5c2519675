"""Published recurrences over sequence shards, in the simulator and in float64: as on one device."""

import pytest
import torch

from glm_scale.parallel.collectives.simulator import simulate
from glm_scale.parallel.sequence.linear_attention import sharded_linear_attention, sharded_log_linear_attention
from tests.kernels.linear_attention.cases import mixed, operands
from tests.parallel.sequence.test_recurrence import documents, results
from tests.tolerances import assert_pass_close

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize(
    ("name", "strategy", "ranks", "length", "packed"),
    [
        ("gla", "scan", 4, 16, True),
        ("gla", "ring", 2, 37, False),
        ("gla", "a2a", 2, 37, True),
        ("gated_delta_rule", "scan", 2, 70, False),
        ("gated_delta_rule", "ring", 4, 9, True),
        ("kda", "scan", 8, 5, True),
        ("kda", "a2a", 4, 16, False),
        ("log_linear", "a2a", 2, 20, True),
    ],
)
def test_shards_equal_the_whole_rows(name, strategy, ranks, length, packed):
    inputs = operands(name, 2, ranks * length, heads=ranks if strategy == "a2a" else 3, decay=0.2)
    grad = torch.randn(inputs[2].shape, dtype=torch.float64)
    starts = documents(2, ranks * length, ranks) if packed else None
    run = sharded_log_linear_attention if name == "log_linear" else sharded_linear_attention

    def work(rank):
        rows = slice(rank.rank * length, (rank.rank + 1) * length)
        leaves = [x[:, rows].detach().clone().requires_grad_() for x in inputs]
        return results(run(tuple(leaves), rank, strategy, starts), leaves, grad[:, rows])

    found = [torch.cat(parts, 1) for parts in zip(*simulate(ranks, work), strict=True)]
    expected = results(mixed(name, inputs, document_starts=starts, backend="reference")[0], inputs, grad)
    assert_pass_close(found, expected, 1e-10)
