"""Descriptions of experiments and runs, which MLflow shows as markdown and lets everybody edit.

A note is ours as long as it reads as we wrote it, which a checksum in a tag beside it tells. One that somebody has
edited, emptied or written before us stays as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

from mlflow.tracking import MlflowClient

__all__ = ["CHECKSUM_TAG", "NOTE_TAG", "describe_experiment", "describe_run"]

NOTE_TAG = "mlflow.note.content"
CHECKSUM_TAG = "glm_scale.note"


def describe_experiment(client: MlflowClient, experiment_id: str, note: str) -> None:
    """Make `note` that of the experiment, unless it has one that is not ours."""
    tags = client.get_experiment(experiment_id).tags
    _write(tags, note, lambda key, text: client.set_experiment_tag(experiment_id, key, text))


def describe_run(client: MlflowClient, run_id: str, note: str) -> None:
    """Make `note` that of the run, unless it has one that is not ours."""
    tags = client.get_run(run_id).data.tags
    _write(tags, note, lambda key, text: client.set_tag(run_id, key, text))


def _write(tags: Mapping[str, str], note: str, set_tag: Callable[[str, str], None]) -> None:
    present, ours = tags.get(NOTE_TAG, ""), tags.get(CHECKSUM_TAG)
    if (ours or "") != (_checksum(present) if present else ""):
        return
    if present == note:
        return
    # What ends in between leaves a note that counts as somebody's: too careful rather than not careful enough.
    set_tag(NOTE_TAG, note)
    set_tag(CHECKSUM_TAG, _checksum(note))


def _checksum(note: str) -> str:
    return hashlib.sha256(note.encode()).hexdigest()[:16]
