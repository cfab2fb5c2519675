"""Run directories as a trainer leaves them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import yaml

from glm_scale.run_directory import RunDirectory, RunSummary

MakeRun = Callable[..., RunDirectory]


def maker(folder: Path) -> MakeRun:
    """Makes a run directory with config, version and summary; keyword arguments replace fields of the summary."""

    def make(name: str = "small", **fields: object) -> RunDirectory:
        run = RunDirectory(folder / "runs" / name).create()
        config = {
            "name": name,
            "model": {"mixers": ["lattice:2^k"], "width": 64},
            "data": {"sources": [{"path": "corpus", "weight": 1.0}], "api_key": "hush"},
            "training": {"tokens": 1000, "batch_tokens": 10, "hub_token": "hush"},
        }
        run.config.write_text(yaml.safe_dump(config))
        run.write_version()
        summary = {
            "name": name,
            "mixer": "lattice:2^k",
            "parameters": 1000,
            "non_embedding_parameters": 600,
            "train_flops_per_token": 6000.0,
            "sequence_length": 512,
            "started": time.time(),
        }
        run.write_summary(RunSummary.model_validate(summary | fields))
        return run

    return make
