"""Run directories as a trainer leaves them, and stores that hold them."""

from __future__ import annotations

import time
from pathlib import Path

from glm_scale.run_directory import RunDirectory, RunSummary
from glm_scale.tracking import MetricsLog


def make_run(
    folder: Path, name: str = "a", *, steps: int = 20, config: str = "{}", status: str = "killed"
) -> RunDirectory:
    """A run in `folder` that has come to `steps` and ended there, in a version that says `config`."""
    run = RunDirectory(folder / name).create()
    run.config.write_text(config)
    run.write_version()
    content = {
        "name": name, "mixer": "ssm", "parameters": 10, "non_embedding_parameters": 5, "train_flops_per_token": 30.0,
        "sequence_length": 8, "started": time.time(), "ended": time.time(), "status": status,
    }  # fmt: skip
    run.write_summary(RunSummary.model_validate(content))
    train(run, 1, steps)
    return run


def train(run: RunDirectory, first: int, last: int) -> None:
    """Measure the steps `first` to `last`."""
    with MetricsLog(run.metrics) as log:
        for step in range(first, last + 1):
            log.append("train", step=step, tokens=10 * step, flops=60.0 * step, loss=10 / step)
