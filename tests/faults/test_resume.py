"""A run that was stopped goes on as if it had not been: every bit of losses, weights, moments and random states."""

from itertools import product

import pytest

from glm_scale.checkpoint.layout import find_checkpoint
from glm_scale.mixers.registry import MIXERS
from glm_scale.training.signals import REQUEUE_EXIT_CODE
from tests.faults.rank import Faults
from tests.faults.runs import BATCH, STEPS, Setup

FAMILIES = (
    "attention",
    "local:5",
    "ssm",
    "mamba2",
    "gla:4",
    "gated_deltanet:4",
    "kda:4",
    "log_linear:4",
    "window:1",
    "window:4",
    "dense",
    "lattice:2^k",
    "lattice:k^2+1",
    "offsets:2^k",
    "offsets:k^2+1",
    "local:3 > lattice:2^k",
)
STAGES = [("fp32", stage) for stage in range(4)] + [("bf16", stage) for stage in range(1, 4)]
OPTIMIZERS = ("adamw", "muon")
SOME, OTHERS = FAMILIES[0::2], FAMILIES[1::2]
# Every family in both precisions, in every stage and with either optimizer.
COVERING = [
    ("fp32", 0, "adamw", FAMILIES),
    ("fp32", 1, "muon", SOME),
    ("fp32", 2, "adamw", SOME),
    ("fp32", 3, "muon", OTHERS),
    ("bf16", 1, "adamw", OTHERS),
    ("bf16", 2, "muon", OTHERS),
    ("bf16", 3, "adamw", SOME),
]


def test_every_family_is_among_them():
    assert {spelling.partition(":")[0] for spelling in FAMILIES if ">" not in spelling} == MIXERS.keys()


def test_every_family_meets_every_precision_stage_and_optimizer():
    met = {(family, choice) for *choices, families in COVERING for choice in choices for family in families}
    assert met == set(product(FAMILIES, ["fp32", "bf16", *range(4), *OPTIMIZERS]))


@pytest.mark.parametrize(("precision", "stage", "optimizer", "families"), COVERING)
def test_a_model_of_many_mixers_goes_on_bit_for_bit(runs, precision, stage, optimizer, families):
    check(runs, Setup("data 2", stage, precision, families, optimizer))


@pytest.mark.soak
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("precision", "stage"), STAGES)
def test_a_model_of_all_mixers_goes_on_bit_for_bit(runs, precision, stage, optimizer):
    check(runs, Setup("data 2", stage, precision, FAMILIES, optimizer))


@pytest.mark.soak
@pytest.mark.parametrize(("precision", "stage"), STAGES)
@pytest.mark.parametrize(("mixer", "layout"), [*product(FAMILIES, ["alone", "data 2", "sequence 2", "tensor 2"])])
def test_every_mixer_goes_on_bit_for_bit_in_every_layout(runs, mixer, layout, precision, stage):
    check(runs, Setup(layout, stage, precision, (mixer, mixer)))


def check(runs, setup):
    """Gradients are accumulated: a step has more sequences than ranks, one in each micro-batch."""
    reference = runs.new(every=STEPS)
    with reference.start(setup) as attempt:
        attempt.finish()
    tiny = runs.new(every=STEPS)
    for stop in (3, 5, None):
        with tiny.start(setup, Faults(stop=stop)) as attempt:
            attempt.finish({REQUEUE_EXIT_CODE} if stop else {0})
    assert len(tiny.losses()) == STEPS
    assert setup.processes < BATCH
    assert tiny.losses() == reference.losses()
    assert tiny.losses("validation") == reference.losses("validation")
    assert tiny.weights() == reference.weights()
    states = [find_checkpoint(run.path, print).state for run in (tiny, reference)]
    assert states[0].counters == states[1].counters
    assert states[0].random == states[1].random
