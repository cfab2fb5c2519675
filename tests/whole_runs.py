"""Whole runs in the process of the test: their configuration, where they are, what repeats."""

from pathlib import Path
from typing import Any

import yaml

from glm_scale.config import RunConfig
from glm_scale.run_directory import RunDirectory
from glm_scale.tracking import read_metrics

STEPS = 6
"""Of a run of `tree` as it is."""

Tree = dict[str, Any]


class CrashError(Exception):
    """Stands for the death of the process."""


def config(tree: Tree, **changes: Any) -> RunConfig:
    merged = yaml.safe_load(yaml.safe_dump(tree))
    for key, value in changes.items():
        group = merged
        *path, leaf = key.split("__")
        for part in path:
            group = group[part]
        group[leaf] = value
    return RunConfig.model_validate(merged)


def run_of(tree: Tree, name: str = "tiny") -> RunDirectory:
    return RunDirectory(Path(tree["run_root"]) / name)


def curve(run: RunDirectory) -> list[tuple[Any, ...]]:
    """Everything in the log that a repetition has to repeat exactly."""
    return [
        (
            record.kind,
            record.step,
            record.tokens,
            *(record.values.get(key) for key in ("loss", "lr", "grad_norm", "final")),
        )
        for record in read_metrics(run.metrics)
        if record.kind in ("train", "validation")
    ]
