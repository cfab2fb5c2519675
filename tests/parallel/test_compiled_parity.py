"""Compiled layers over ranks train as one process does: ranks change where graphs end, on every processor alike.

The first setup is compiled as on GPUs, the others up to where code would be made.
"""

import pytest

from tests.parallel.training import Setup, train

SETUPS = [
    Setup(
        ("lattice:2^k",),
        tensor=2,
        sequence=2,
        strategy="scan",
        shards_tokens=True,
        checkpointing="selective",
        backend="inductor",
        in_pieces=True,
    ),
    Setup(("lattice:k^2+1",), sequence=4, strategy="ring", stage=2, backend="aot_eager"),
    Setup(("attention",), tensor=2, sequence=2, stage=3, checkpointing="selective", backend="aot_eager"),
]
MORE = [
    Setup(("ssm:4", "attention"), sequence=2, stage=3, checkpointing="full", backend="aot_eager"),
    Setup(("local:5 > lattice:2^k",), tensor=2, stage=3, backend="aot_eager"),
]


@pytest.mark.parametrize("setup", [*SETUPS, *(pytest.param(setup, marks=pytest.mark.soak) for setup in MORE)], ids=str)
def test_four_compiled_ranks_train_as_one_process(processes, setup):
    (expected,) = processes.run(1, train, Setup(setup.mixers))
    for found in processes.run(4, train, setup):
        found.assert_same(expected)
