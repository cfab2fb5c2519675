"""A small data set and the configuration of a run that trains on it in a second."""

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from glm_data import BuildConfig, build
from tests.tolerances import loss_curve

VOCABULARY = 300
LENGTH = 32
SAME_LOSSES = loss_curve(2 * (4 * LENGTH + 2 * 6 * 32), steps=6)
"""How far apart, relatively, losses of the tiny run may be that differ in the order of sums alone: over the tokens of a
batch, and in the products of two layers, forward and backward."""


def tiny_source(path: Path) -> Path:
    """Short made-up documents, written to `path`."""
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 6))) for _ in range(60)]
    texts = (" ".join(draw.choices(words, k=draw.randint(3, 60))) for _ in range(120))
    path.write_text("".join(f'{{"text": "{text}."}}\n' for text in texts))
    return path


def tiny_data(factory: pytest.TempPathFactory) -> Path:
    """A data set of these documents; built once a session."""
    output = factory.getbasetemp() / "tiny-data"
    if not output.exists():
        source = tiny_source(factory.mktemp("text") / "documents.jsonl")
        build(
            BuildConfig(inputs=[source], output=output, vocabulary_size=VOCABULARY, validation_fraction=0.1, workers=1)
        )
    return output


def tiny_config(data: Path, folder: Path, **training: Any) -> dict[str, Any]:
    """The configuration tree of a run of six steps of two micro-batches; `training` replaces values of that group."""
    return {
        "name": "tiny",
        "run_root": str(folder / "runs"),
        "model": {
            "vocab_size": 320,
            "layers": 2,
            "width": 16,
            "heads": 2,
            "mixers": ["lattice:2^k", "attention"],
            "mlp_width": 32,
        },
        "data": {"sources": [{"path": str(data)}], "sequence_length": LENGTH, "workers": 0},
        "training": {
            "tokens": 6 * 4 * LENGTH,
            "batch_tokens": 4 * LENGTH,
            "micro_batch": 2,
            "optimizer": {"learning_rate": 0.01},
            "device": "cpu",
            **training,
        },
        "evaluation": {"every": 3, "sequences": 4},
        "checkpoint": {"every": 2, "keep": 2},
        "tracking": {"enabled": False, "system_metrics": None},
    }


def write_config(path: Path, config: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(config))
    return path


def glm_scale(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`glm-scale ARGUMENTS` in a process of its own."""
    command = [sys.executable, "-m", "glm_scale.cli.app", *arguments]
    # As from a shell: nothing says that a launcher is at work.
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
