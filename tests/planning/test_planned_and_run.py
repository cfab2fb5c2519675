"""What the planner says of a layout is what a run in it does: bytes sent, exactly, and bytes held."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from glm_scale.config.run import RunConfig
from glm_scale.parallel.mesh import Layout
from glm_scale.planning.estimate import Estimate
from glm_scale.planning.plan import activations_of
from tests.planning.running import watch

RANKS = 4


def run_config(
    mixers: list[str], model: dict[str, Any] | None = None, *, tensor: int = 1, sequence: int = 1,
    strategy: str | None = None, shard_activations: bool = False, batch: int = 4, length: int = 24, **training: Any,
) -> RunConfig:  # fmt: skip
    """A small model on four ranks, two micro-batches a step, which are `batch` sequences on all data ranks together."""
    sizes = {"layers": 2, "width": 16, "heads": 4, "vocab_size": 32, "mlp_width": 32, "mixers": mixers}
    steps = {"tokens": 10**6, "batch_tokens": 2 * batch * length, "micro_batch": batch * tensor * sequence // RANKS}
    return RunConfig.model_validate(
        {
            "name": "planned",
            "model": sizes | (model or {}),
            "data": {"sources": [{"path": "nowhere"}], "sequence_length": length},
            "training": steps | training,
            "parallel": {
                "tensor": tensor,
                "sequence": sequence,
                "strategy": strategy,
                "shard_activations": shard_activations,
            },
        }
    )


CONV, TIED = {"conv_width": 3}, {"tie_embeddings": True}
BF16: dict[str, Any] = {"precision": "bf16"}
AGAIN: dict[str, Any] = {"activation_checkpointing": "full"}
PART_AGAIN: dict[str, Any] = {"activation_checkpointing": "selective"}
SPLIT: dict[str, Any] = {"shard_activations": True}
GROUPED = {"kv_heads": 2, "qk_norm": True}
MUON: dict[str, Any] = {"optimizer": {"kind": "muon"}}

# Every two of mixer, layout, strategy, stage, precision, checkpointing, split tokens, tied tables and convolution meet.
CONFIGS = [
    run_config(["offsets:2^k", "ssm:4"], zero_stage=3, **AGAIN, **MUON),
    run_config(["mamba2:4", "dense"], CONV | TIED, zero_stage=2, **BF16),
    run_config(["attention", "lattice:2^k"], CONV | TIED, zero_stage=0, **AGAIN, **MUON),
    run_config(["local:5 > window:3", "lattice:k^2+1"], TIED, zero_stage=1, **BF16, **MUON),
    run_config(["mamba2:4", "ssm:4"], CONV | TIED, sequence=2, strategy="ring", zero_stage=3, **BF16),
    run_config(["lattice:2^k", "mamba2:4"], sequence=2, strategy="scan", zero_stage=0, **AGAIN),
    run_config(
        ["attention", "local:5 > window:3"], TIED | GROUPED, sequence=2, strategy="a2a", zero_stage=2, **BF16, **AGAIN
    ),
    run_config(["dense", "offsets:2^k"], CONV | TIED, sequence=2, strategy="ring", zero_stage=1, **BF16),
    run_config(["mamba2:4", "lattice:2^k"], CONV | TIED, sequence=2, strategy="a2a", zero_stage=1, **BF16),
    run_config(["lattice:k^2+1", "ssm:4"], TIED, sequence=2, strategy="scan", zero_stage=3, **AGAIN),
    run_config(["attention", "dense"], TIED, sequence=2, zero_stage=1, **BF16, **AGAIN),
    run_config(["dense", "attention"], sequence=4, strategy="a2a", zero_stage=1),
    run_config(
        ["lattice:k^2+1", "offsets:2^k"], CONV | TIED, sequence=4, strategy="a2a", zero_stage=3, **BF16, **AGAIN
    ),
    run_config(["ssm:4", "mamba2:4"], TIED, sequence=4, strategy="scan", zero_stage=2, **BF16),
    run_config(["lattice:2^k", "local:5 > window:3"], sequence=4, strategy="ring", zero_stage=3),
    run_config(["mamba2:4", "attention"], TIED, sequence=4, zero_stage=0, **AGAIN),
    run_config(["lattice:k^2+1", "local:5 > window:3"], CONV, tensor=2, zero_stage=0),
    run_config(["attention", "dense"], TIED, tensor=2, **SPLIT, zero_stage=3, **BF16, **AGAIN),
    run_config(["ssm:4", "offsets:2^k"], CONV, tensor=2, zero_stage=1),
    run_config(["lattice:2^k", "lattice:k^2+1"], CONV | TIED, tensor=2, zero_stage=2, **MUON),
    run_config(
        ["local:5 > window:3", "lattice:k^2+1"],
        tensor=2,
        sequence=2,
        strategy="ring",
        **SPLIT,
        zero_stage=2,
        **BF16,
        **AGAIN,
    ),
    run_config(
        ["ssm:4", "lattice:2^k"], CONV | TIED, tensor=2, sequence=2, strategy="scan", **SPLIT, zero_stage=1, **BF16
    ),
    run_config(["offsets:2^k", "attention"], CONV | TIED, tensor=2, sequence=2, strategy="ring", zero_stage=0),
    run_config(["dense", "ssm:4"], tensor=2, sequence=2, strategy="a2a", **SPLIT, zero_stage=0),
    run_config(["offsets:2^k", "local:5 > window:3"], CONV | GROUPED, tensor=2, sequence=2, **SPLIT, zero_stage=3),
    run_config(["offsets:2^k", "lattice:2^k"], CONV | TIED, tensor=4, **SPLIT, zero_stage=2, **AGAIN),
    run_config(["local:5 > window:3", "lattice:k^2+1"], TIED, tensor=4, zero_stage=1, **BF16, **AGAIN),
    run_config(["ssm:4", "dense"], tensor=4, **SPLIT, zero_stage=3),
    run_config(["lattice:k^2+1", "attention"], tensor=4, **SPLIT, zero_stage=0),
    # Weights and norms that serve all heads, and states with maps of their own.
    run_config(["mamba2:4", "gla:4"], CONV, tensor=2, zero_stage=1, **AGAIN),
    run_config(["kda:4", "mamba2:4"], TIED, tensor=2, sequence=2, strategy="a2a", **SPLIT, zero_stage=3, **BF16),
    run_config(["gated_deltanet:4", "log_linear:4"], TIED, tensor=2, sequence=2, strategy="a2a", zero_stage=2),
    # What is computed again in part: over tensor ranks without and with split tokens, gathered weights, sequence ranks.
    run_config(["lattice:2^k", "attention"], CONV, tensor=2, zero_stage=3, **PART_AGAIN),
    run_config(["ssm:4", "lattice:2^k"], CONV | TIED, tensor=2, sequence=2, **SPLIT, zero_stage=1, **PART_AGAIN),
]


def estimate(config: RunConfig) -> Estimate:
    layout = Layout.of(RANKS, tensor=config.parallel.tensor, sequence=config.parallel.sequence)
    return Estimate(config, layout, activations_of(config, layout, "cpu"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: " ".join(config.model.mixers))
def test_every_rank_sends_and_holds_what_was_planned(processes, config):
    planned = estimate(config)
    for found in processes.run(RANKS, watch, config):
        sent: dict[str, float] = defaultdict(float)
        for exchange in planned.exchanges(found.sequence_rank):
            sent[exchange.collective] += exchange.sent
        measured = dict(found.sent)
        if config.training.optimizer.kind == "muon":
            # Matrices, which are sent in bf16 on GPUs alone, and not those few that ZeRO happens to cut.
            sent.pop("all_to_all", None)
            measured.pop("all_to_all", None)
        assert sent == pytest.approx(measured, rel=1e-12)
        state = planned.state(found.replica)
        assert (state.weights, state.gradients, state.optimizer) == (found.weights, found.gradients, found.optimizer)
        assert planned.part.numbers == found.parameters


WIDE = {"width": 128, "vocab_size": 64, "mlp_width": 256}


@pytest.mark.parametrize(
    "config",
    [
        run_config(["ssm:16", "local:32"], WIDE | CONV, length=256, **BF16, **AGAIN),
        run_config(["lattice:2^k", "mamba2:16"], WIDE, length=256, sequence=4),
        run_config(["dense", "offsets:2^k"], WIDE | CONV, length=256, sequence=2, strategy="a2a", **BF16),
        run_config(["window:5", "attention"], WIDE | CONV, length=256, tensor=2, **SPLIT, **BF16),
        run_config(["lattice:k^2+1", "ssm:16"], WIDE | TIED, length=256, tensor=4),
        run_config(["attention", "lattice:2^k"], WIDE | CONV, length=256, tensor=2, **SPLIT, **PART_AGAIN),
        run_config(["ssm:16", "local:32"], WIDE | CONV, length=256, sequence=2, **BF16, **PART_AGAIN),
        run_config(["local:32 > lattice:2^k"], WIDE | CONV, length=256, tensor=2, sequence=2, **SPLIT, **AGAIN),
    ],
    ids=lambda config: " ".join(config.model.mixers),
)
def test_activations_are_within_a_tenth_of_a_run(processes, config):
    planned = estimate(config)
    for found in processes.run(RANKS, watch, config):
        boundary = 0 if config.training.activation_checkpointing == "full" else planned.memory.boundary
        assert planned.activations + boundary == pytest.approx(found.activations, rel=0.1)
