"""The SSM over sequence shards, in the simulator and in float64: together the ranks compute the whole rows."""

import pytest
import torch

from glm_kernels import ssm
from glm_scale.parallel.collectives.simulator import simulate
from glm_scale.parallel.sequence.ssm import sharded_ssm
from tests.parallel.sequence.test_recurrence import documents, operands, results, same
from tests.tolerances import assert_pass_close

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("ranks", "length"), [(2, 37), (4, 16), (16, 9)])
@pytest.mark.parametrize("strategy", ["scan", "ring", "a2a"])
def test_shards_equal_the_whole_rows(strategy, ranks, length, packed):
    *inputs, grad = operands(2, ranks * length, ranks if strategy == "a2a" else 3)
    inputs[3] = -inputs[3].abs() / 8
    starts = documents(2, ranks * length, ranks) if packed else None

    def work(rank):
        rows = slice(rank.rank * length, (rank.rank + 1) * length)
        q, k, v, decay = leaves = [x[:, rows].clone().requires_grad_() for x in inputs]
        y = sharded_ssm(q, k, v, decay, rank, strategy, document_starts=starts)
        return results(y, leaves, grad[:, rows])

    found = [torch.cat(parts, 1) for parts in zip(*simulate(ranks, work), strict=True)]
    leaves = [x.clone().requires_grad_() for x in inputs]
    expected = results(ssm(*leaves, document_starts=starts, backend="reference")[0], leaves, grad)
    # Decays are differences of running sums of logarithms, whose size becomes the error of what they weigh.
    decays = 1 + float(inputs[3].abs().sum(1).max())
    assert_pass_close(found, expected, decays * same(ranks * length))
