"""Weights that ZeRO-3 gathers: by the rules, and by DeepSpeed itself."""

import pytest

from glm_scale.planning.estimate import weight_groups
from glm_scale.planning.gathering import Visit, gathering, visits
from glm_scale.planning.parts import Part
from glm_scale.planning.zero import Zero
from glm_scale.training import engine
from tests.planning.running import watch
from tests.planning.test_planned_and_run import AGAIN, BF16, PART_AGAIN, RANKS, TIED, run_config

FORWARD, NUMBERS, STAYS = [Visit([0]), Visit([1, 2]), Visit([3])], [10, 20, 30, 40], [False, True, False, False]


def test_what_is_needed_again_soon_is_gathered_once():
    found = gathering([*FORWARD, *reversed(FORWARD)], NUMBERS, STAYS)
    assert found.times == {0: 1, 2: 1, 3: 1}
    assert found.most == 80


def test_what_is_given_back_is_gathered_twice():
    found = gathering([*FORWARD, *reversed(FORWARD)], NUMBERS, STAYS, prefetched=0, soon=0)
    assert found.times == {0: 2, 2: 2, 3: 2}
    assert found.most == 40


LARGE = {"width": 320, "vocab_size": 320, "mlp_width": 640, "layers": 3}


def watch_with(config, settings):
    """With DeepSpeed told to keep less."""
    usual = engine._deepspeed_config

    def changed(*arguments):
        made = usual(*arguments)
        made["zero_optimization"] |= settings
        return made

    engine._deepspeed_config = changed
    try:
        return watch(config)
    finally:
        engine._deepspeed_config = usual


@pytest.mark.parametrize(
    ("config", "prefetched", "soon"),
    [
        # The defaults.
        (run_config(["lattice:2^k"], LARGE, zero_stage=3), 50_000_000, 1_000_000_000),
        (run_config(["ssm"], LARGE, zero_stage=3, **AGAIN), 0, 0),
        (run_config(["lattice:2^k"], LARGE | TIED, zero_stage=3, **AGAIN), 300_000, 500_000),
        (run_config(["lattice:2^k"], LARGE, zero_stage=3, **PART_AGAIN), 300_000, 500_000),
        (run_config(["attention"], LARGE, zero_stage=3, **BF16), 300_000, 500_000),
    ],
)
def test_deepspeed_gathers_as_often(processes, config, prefetched, soon):
    settings = {"stage3_prefetch_bucket_size": prefetched, "stage3_max_reuse_distance": soon}
    part, training = Part(config.model, 1), config.training
    numbers = [weight.numbers for weight in part.weights]
    small = [count <= 100_000 for count in numbers]
    found = gathering(
        visits(part.modules, training.activation_checkpointing), numbers, small, prefetched=prefetched, soon=soon
    )  # fmt: skip
    size = 2 if training.precision == "bf16" else 4
    shards = [-(-count // RANKS) * size * (RANKS - 1) for count in numbers]
    once = sum(shard for shard, stays in zip(shards, small, strict=True) if stays)
    each = sum(times * shards[weight] for weight, times in found.times.items())
    ran = processes.run(RANKS, watch_with, config, settings)[0]
    assert ran.sent["all_gather"] == once + config.accumulation(RANKS) * each
    keys = weight_groups(config.model, training.optimizer)
    assert Zero(part, 3, training.precision, RANKS, 1, "none", keys).state().weights == ran.weights
