"""Training over data and sequence ranks through DeepSpeed gives the losses and the weights of one process."""

import pytest

from tests.parallel.training import train


@pytest.fixture(scope="module")
def alone(processes):
    """Losses and weights of one process, by mixers."""
    known = {}

    def results(mixers):
        if mixers not in known:
            known[mixers] = processes.run(1, train, list(mixers), 1, None, 1)[0]
        return known[mixers]

    return results


@pytest.mark.parametrize(
    ("mixers", "sequence", "strategy", "stage", "checkpointing"),
    [
        (("lattice:2^k",), 4, "scan", 1, False),
        (("lattice:2^k",), 2, "ring", 2, True),
        (("lattice:k^2+1",), 4, "ring", 0, False),
        (("lattice:k^2+1",), 2, "scan", 3, False),
        (("window:3",), 2, "a2a", 1, False),
        (("dense",), 4, "a2a", 3, True),
        (("offsets:2^k",), 2, "ring", 0, False),
        (("offsets:k^2+1",), 1, None, 2, True),
        (("attention",), 4, None, 2, False),
        (("local:5 > lattice:2^k",), 2, None, 1, False),
        (("ssm",), 4, "scan", 0, True),
        (("ssm",), 2, "ring", 3, False),
        (("mamba2",), 4, "scan", 1, False),
        (("lattice:2^k", "attention"), 2, None, 1, True),
        (("ssm", "dense"), 1, None, 3, False),
    ],
)
def test_four_ranks_train_as_one(processes, alone, mixers, sequence, strategy, stage, checkpointing):
    """`sequence` ranks share the rows of the same sequences; the others hold other sequences."""
    expected_losses, expected = alone(mixers)
    answers = processes.run(4, train, list(mixers), sequence, strategy, stage, checkpointing)
    for losses, weights in answers:
        assert losses == pytest.approx(expected_losses, rel=1e-5)
        assert weights.keys() == expected.keys()
        for name, weight in expected.items():
            assert (weights[name] - weight).norm() <= 1e-5 * weight.norm(), name
