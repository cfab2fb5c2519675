"""Training over tensor, sequence and data ranks through DeepSpeed gives the losses and the weights of one process."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from tests.parallel.training import Setup, train
from tests.tolerances import error, norm, unit

pytestmark = pytest.mark.numeric

SETUPS = [
    # Sequence and data ranks.
    Setup(("lattice:2^k",), sequence=4, strategy="scan"),
    Setup(("lattice:2^k",), sequence=2, strategy="ring", stage=2, checkpointing="full"),
    Setup(("lattice:k^2+1",), sequence=4, strategy="ring", stage=0),
    Setup(("lattice:k^2+1",), sequence=2, strategy="scan", stage=3),
    Setup(("window:3",), sequence=2, strategy="a2a"),
    Setup(("dense",), sequence=4, strategy="a2a", stage=3, checkpointing="full"),
    Setup(("offsets:2^k",), sequence=2, strategy="ring", stage=0),
    Setup(("offsets:k^2+1",), stage=2, checkpointing="full"),
    Setup(("attention",), sequence=4, stage=2),
    Setup(("local:5 > lattice:2^k",), sequence=2),
    Setup(("ssm:4",), sequence=4, strategy="scan", stage=0, checkpointing="full"),
    Setup(("ssm:4",), sequence=2, strategy="ring", stage=3),
    Setup(("mamba2:4",), sequence=4, strategy="scan"),
    Setup(("gla:4", "kda:4"), sequence=4, strategy="scan", stage=3, checkpointing="full"),
    Setup(("log_linear:4", "kda:4"), stage=2),
    Setup(("lattice:2^k", "attention"), sequence=2, checkpointing="full"),
    Setup(("ssm:4", "dense"), stage=3),
    # Tensor ranks, and with others.
    Setup(("lattice:2^k",), tensor=2, stage=0),
    Setup(("lattice:k^2+1",), tensor=4, shards_tokens=True, stage=1, tied=True),
    Setup(("window:3",), tensor=2, sequence=2, strategy="scan", shards_tokens=True, stage=1, checkpointing="full"),
    Setup(("dense",), tensor=2, sequence=2, stage=3),
    Setup(("offsets:2^k",), tensor=2, shards_tokens=True, stage=3),
    Setup(("offsets:k^2+1",), tensor=2, sequence=2, strategy="a2a", stage=0, tied=True),
    Setup(("attention",), tensor=2, shards_tokens=True, stage=0, checkpointing="full"),
    Setup(("local:5",), tensor=4, stage=2),
    Setup(("lattice:2^k",), tensor=2, shards_tokens=True, stage=3, checkpointing="selective"),
    Setup(("ssm:4",), tensor=2, sequence=2, strategy="scan", stage=2),
    Setup(("ssm:4",), tensor=2, shards_tokens=True, stage=3, tied=True),
    Setup(("gla:4", "kda:4"), tensor=2, sequence=2, strategy="ring", shards_tokens=True, stage=1),
    Setup(("mamba2:4", "gated_deltanet:4"), tensor=2, sequence=2, strategy="scan", stage=2),
    Setup(("mamba2:4", "gated_deltanet:4"), tensor=4, shards_tokens=True, stage=3, checkpointing="selective"),
    Setup(("log_linear:4", "kda:4"), tensor=2, sequence=2, strategy="a2a", stage=1, checkpointing="full"),
    Setup(("lattice:2^k", "attention"), tensor=2, sequence=2, shards_tokens=True, stage=2),
    # With keys and values that heads have together, and norms of queries and keys.
    Setup(("attention", "local:5"), sequence=2, strategy="a2a", kv_heads=2, qk_norm=True),
    Setup(
        ("attention", "local:5 > window:3"), tensor=2, sequence=2, strategy="ring", kv_heads=2, qk_norm=True, stage=3
    ),
    # With matrices that ZeRO or tensor ranks cut.
    Setup(("lattice:2^k",), optimizer="muon", stage=1),
    Setup(("ssm:4",), tensor=2, optimizer="muon", stage=2, shards_tokens=True),
    Setup(("attention",), tensor=2, sequence=2, optimizer="muon", stage=3),
    Setup(("window:3",), tensor=4, optimizer="muon", stage=0, tied=True),
]

BF16_SETUPS = [
    Setup(("lattice:2^k",), tensor=2, sequence=2, stage=1, precision="bf16"),
    Setup(("ssm:4", "lattice:k^2+1"), sequence=2, stage=2, precision="bf16", checkpointing="full"),
    Setup(("offsets:2^k", "attention"), tensor=2, shards_tokens=True, stage=3, precision="bf16"),
    Setup(("lattice:2^k",), tensor=2, stage=2, precision="bf16", optimizer="muon"),
]
MIXERS = (
    "attention", "local:5", "ssm:4", "mamba2:4", "gla:4", "gated_deltanet:4", "kda:4", "log_linear:4",
    "window:3", "dense", "lattice:2^k", "lattice:k^2+1", "offsets:2^k",
    "offsets:k^2+1", "local:5 > lattice:2^k",
)  # fmt: skip


def everything():
    """Every mixer × layout × strategy × stage that there is on four ranks."""
    for mixer, (tensor, sequence), stage in product(MIXERS, [(1, 1), (2, 1), (4, 1), (1, 2), (1, 4), (2, 2)], range(4)):
        for strategy in (None,) if sequence == 1 else ("scan", "ring", "a2a"):
            for shards_tokens in {False, tensor > 1}:
                setup = Setup(
                    (mixer, "attention"), tensor, sequence, strategy, stage, shards_tokens,
                    checkpointing=("none", "selective", "full", "selective")[stage], tied=stage > 1,
                )  # fmt: skip
                if setup.is_legal():
                    yield setup


@pytest.fixture(scope="module")
def alone(processes):
    """What one process finds, by mixers and whether the embeddings are tied."""
    known = {}

    def results(setup):
        one = replace(setup, tensor=1, sequence=1, strategy=None, stage=1, shards_tokens=False, checkpointing="none")
        if (key := str(one)) not in known:
            known[key] = processes.run(1, train, one)[0]
        return known[key]

    return results


@pytest.mark.parametrize(
    "setup", [*SETUPS, *(pytest.param(setup, marks=pytest.mark.soak) for setup in everything())], ids=str
)
def test_four_ranks_train_as_one(processes, alone, setup):
    expected = alone(setup)
    for found in processes.run(4, train, setup):
        found.assert_same(expected)


@pytest.mark.parametrize("setup", BF16_SETUPS, ids=str)
def test_in_bf16_ranks_differ_by_rounding_alone(processes, alone, setup):
    """Sums of bf16 numbers in another order: what one process finds in bf16, and no worse against fp32.

    Ranks round what they exchange once more, forward and backward in two layers, each time by half a unit at most.
    """
    expected = alone(setup)
    exact = alone(replace(setup, precision="fp32"))
    once_more = 4 * unit(torch.bfloat16) / 2
    for found in processes.run(4, train, setup):
        assert found.losses == pytest.approx(expected.losses, rel=once_more)
        assert found.norms == pytest.approx(expected.norms, rel=once_more * expected.cancellation)
        for name, tensor in exact.first.items():
            size = exact.cancellation * norm(tensor)
            ours, theirs = (error(x.first[name], tensor, size) for x in (found, expected))
            assert ours <= 2 * theirs + once_more, name
