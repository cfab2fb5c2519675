"""A calibration of round numbers, at the very sizes of a small run, so that a step can be added up by hand."""

from __future__ import annotations

from typing import Any

from glm_scale.config.run import RunConfig
from glm_scale.planning.calibration import Calibration

BATCH, LENGTH, WIDTH, HIDDEN, HEADS, LAYERS, VOCABULARY = 2, 64, 32, 96, 4, 3, 128
TOKENS = BATCH * LENGTH


def small_run(mixers: list[str], **training: Any) -> RunConfig:
    """On one GPU, compiled, two micro-batches a step."""
    steps = {"tokens": 10**6, "batch_tokens": 2 * TOKENS, "micro_batch": BATCH, "precision": "bf16", "compile": True}
    return RunConfig.model_validate(
        {
            "name": "planned",
            "model": {
                "layers": LAYERS, "width": WIDTH, "heads": HEADS, "vocab_size": VOCABULARY, "mlp_width": HIDDEN,
                "mixers": mixers,
            },
            "data": {"sources": [{"path": "nowhere"}], "sequence_length": LENGTH},
            "training": steps | training,
        }
    )  # fmt: skip


def made_up(**changed: Any) -> Calibration:
    """A product takes 1 ms, its gradients 2 and 3, attention 10 and 20, the head 5; copies move 1 TB/s."""
    sizes = [(WIDTH, WIDTH), (WIDTH, HIDDEN), (HIDDEN, WIDTH), (WIDTH, HEADS)]
    shape = {"batch": BATCH, "length": LENGTH, "heads": HEADS, "key": WIDTH // HEADS, "value": WIDTH // HEADS}
    of_tokens = {"tokens": TOKENS, "width": WIDTH, "vocabulary": VOCABULARY}
    return Calibration.model_validate(
        {
            "gpu": "NVIDIA H200",
            "versions": {"torch": "2.11"},
            "command": "by hand",
            "matmuls": [
                {"tokens": TOKENS, "inputs": inputs, "outputs": outputs, "forward": 1e-3, "input_gradient": 2e-3,
                 "weight_gradient": 3e-3}
                for inputs, outputs in sizes
            ],
            "operators": [{"operator": "attention", **shape, "forward": 10e-3, "backward": 20e-3}],
            "heads": [{**of_tokens, "seconds": 5e-3}],
            "embeddings": [{**of_tokens, "seconds": 0.5e-3}],
            "copies": [{"size": 10**12, "seconds": 1.0}],
            "fused": [{"size": 10**12, "seconds": 2.0}],
            "updates": [{"numbers": 1000, "update": 1e-6, "norm": 0.5e-6}],
            "host": 7e-3,
            **changed,
        }
    )  # fmt: skip
