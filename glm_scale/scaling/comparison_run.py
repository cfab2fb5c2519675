"""The MLflow run of a comparison: found again, and brought up to date in place. Every call may raise, or take long.

MLflow takes no metric back: what is no longer said becomes NaN, which it neither plots nor sorts by.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Iterator

from mlflow.entities import Metric, Run, RunTag
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient
from mlflow.utils.validation import (
    MAX_METRICS_PER_BATCH,
    MAX_PARAMS_TAGS_PER_BATCH,
    MAX_TAG_VAL_LENGTH,
)

from glm_scale.scaling import explanation
from glm_scale.scaling.chart_view import chart_view
from glm_scale.scaling.publication import Publication, Published
from glm_scale.tracking.links import VIEW_TAG
from glm_scale.tracking.mirror import PLACE_TAG, usable_key
from glm_scale.tracking.notes import describe_experiment, describe_run
from glm_scale.tracking.parents import PARENT_TAG, find_or_create_parent
from glm_scale.tracking.place import Place
from glm_scale.tracking.store import active_run, find_or_create_experiment, open_store

__all__ = ["log_comparison"]

_OF_FOLDER_TAG = "glm_scale.comparison_of"
_ARTIFACTS_TAG = "glm_scale.artifacts"
_TABLES_TAG = "mlflow.loggedArtifacts"
_COLOUR_TAG = "mlflow.runColor"
_OURS = ("law/", "multiplier/", "scaling/", "validation_loss/", "bits_per_byte/")
"""Beginnings of metrics that a comparison has, or had in an earlier version."""


def log_comparison(publication: Publication) -> Published:
    """Make MLflow show this comparison in place of an earlier one."""
    client = open_store(publication.uri)
    experiment = find_or_create_experiment(client, publication.experiment)
    if publication.parent is not None:
        run_id = find_or_create_parent(client, experiment, publication.parent)
    else:
        run_id = _find_or_create(client, experiment, publication)
    known = client.get_run(run_id)
    _log_artifacts(client, known, publication)
    _log_metrics(client, known, publication.metrics)
    tags = publication.tags | {
        _ARTIFACTS_TAG: json.dumps(_artifacts(publication)),
        _TABLES_TAG: json.dumps([{"path": path, "type": "table"} for path in publication.tables]),
    }
    _set_tags(client, run_id, tags)
    _colour(client, publication.colours)
    view = chart_view(run_id if publication.parent is not None else None, list(publication.colours))
    client.set_experiment_tag(experiment, f"{VIEW_TAG}{run_id}", view)
    describe_experiment(client, experiment, explanation.of_experiment())
    note = explanation.of_comparison(publication, experiment, run_id, view=run_id)
    describe_run(client, run_id, note[:MAX_TAG_VAL_LENGTH])
    if publication.parent is None:
        client.set_terminated(run_id)
    return Published(experiment_id=experiment, run_id=run_id, page=publication.page, view=run_id)


def _find_or_create(client: MlflowClient, experiment: str, publication: Publication) -> str:
    """The run of this kind of comparison in this folder: of one path, on one machine or one file system."""
    here = Place.model_validate_json(publication.place)
    key = hashlib.sha256(f"{publication.kind} {here.path}".encode()).hexdigest()[:16]
    tags = {_OF_FOLDER_TAG: key, PLACE_TAG: publication.place, "kind": publication.kind}
    if publication.under is not None:
        tags[PARENT_TAG] = find_or_create_parent(client, experiment, publication.under)
    for run in client.search_runs([experiment], f"tags.`{_OF_FOLDER_TAG}` = '{key}'"):
        place = Place.from_tag(run.data.tags.get(PLACE_TAG))
        if place is not None and here.is_directory_of(place):
            _set_tags(client, run.info.run_id, tags)
            return str(run.info.run_id)
    return str(client.create_run(experiment, run_name=publication.name, tags=tags).info.run_id)


def _artifacts(publication: Publication) -> list[str]:
    return [*(path.name for path in publication.files), *publication.texts]


def _log_artifacts(client: MlflowClient, known: Run, publication: Publication) -> None:
    for path in publication.files:
        client.log_artifact(known.info.run_id, str(path))
    for name, text in publication.texts.items():
        client.log_text(known.info.run_id, text, name)
    with contextlib.suppress(ValueError):
        earlier = set(json.loads(known.data.tags.get(_ARTIFACTS_TAG, "[]")))
        _delete_artifacts(known, earlier - set(_artifacts(publication)))


def _delete_artifacts(known: Run, names: set[str]) -> None:
    # Not every store of artifacts can delete: the note names those that are current.
    with contextlib.suppress(Exception):
        for name in names:
            get_artifact_repository(known.info.artifact_uri).delete_artifacts(name)


def _log_metrics(client: MlflowClient, known: Run, metrics: dict[str, float]) -> None:
    now = round(time.time() * 1000)
    points = [Metric(usable_key(name), value, now, 0) for name, value in metrics.items()]
    said = {point.key for point in points}
    points += [Metric(name, math.nan, now, 0) for name in _stale(known) if name not in said]
    for start in range(0, len(points), MAX_METRICS_PER_BATCH):
        client.log_batch(known.info.run_id, metrics=points[start : start + MAX_METRICS_PER_BATCH], synchronous=True)


def _stale(known: Run) -> Iterator[str]:
    for name, value in known.data.metrics.items():
        if name.startswith(_OURS) and not math.isnan(value):
            yield name


def _set_tags(client: MlflowClient, run_id: str, tags: dict[str, str]) -> None:
    entries = [RunTag(usable_key(key), text[:MAX_TAG_VAL_LENGTH]) for key, text in tags.items()]
    for start in range(0, len(entries), MAX_PARAMS_TAGS_PER_BATCH):
        client.log_batch(run_id, tags=entries[start : start + MAX_PARAMS_TAGS_PER_BATCH], synchronous=True)


def _colour(client: MlflowClient, colours: dict[str, str]) -> None:
    """Give the compared runs the colours of figures, but for those that have been given one."""
    for run_id, colour in colours.items():
        run = active_run(client, run_id)
        if run is not None and _COLOUR_TAG not in run.data.tags:
            client.set_tag(run_id, _COLOUR_TAG, colour)
