"""A run directory as a trainer leaves it, and what MLflow has made of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from mlflow.tracking import MlflowClient

from glm_scale.run_directory import RunDirectory, RunSummary

MakeRun = Callable[..., RunDirectory]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Make a run directory with config, version and summary; keyword arguments replace fields of the summary."""

    def make(name: str = "small", **fields: object) -> RunDirectory:
        run = RunDirectory(tmp_path / "runs" / name).create()
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


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """Making a store takes MLflow a second; tests copy this one."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path
