"""Copies a run directory into an MLflow run. Synchronous: every call talks to MLflow and may raise or take long.

Calls are safe to repeat. A point keeps the time at which it was measured, and MLflow's database ignores a point it
already has, so replaying part of the log changes nothing. A run that goes back measures some steps again; MLflow can
take nothing back and shows both measurements.

MLflow plots metrics against an integer step and nothing else. The curves that runs are compared by are
therefore logged three times, under names that say what the step counts:

    train/loss                step = optimizer steps
    by_tokens/train/loss      step = tokens
    by_gflops/train/loss      step = GFLOPs of training (FLOPs themselves pass the largest 64-bit integer at 9e18,
                              and petaflops would make one step of a small run)

`progress/tokens` and `progress/flops` hold both against optimizer steps. The parts of a loss have the names of
`glm_scale.tracking.breakdown`, which sort, and statistics those of `glm_scale.training.statistics`.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.validation import (
    MAX_ENTITY_KEY_LENGTH,
    MAX_METRICS_PER_BATCH,
    MAX_PARAM_VAL_LENGTH,
    MAX_PARAMS_TAGS_PER_BATCH,
    MAX_TAG_VAL_LENGTH,
)

from glm_scale.naming import slug
from glm_scale.run_directory import RunDirectory, RunSummary
from glm_scale.tracking.metrics_log import Record
from glm_scale.tracking.outcome import outcome
from glm_scale.tracking.parents import PARENT_TAG, find_or_create_parent
from glm_scale.tracking.place import Place
from glm_scale.tracking.state import Mark, TrackingState
from glm_scale.tracking.store import active_run, find_or_create_experiment, first_line, open_store
from glm_scale.tracking.uris import without_secrets

UID_TAG = "glm_scale.uid"
PLACE_TAG = "glm_scale.place"
COPY_TAG = "glm_scale.copy_of"
_DIRECTORY_TAG = "run_directory"
_COMPARED = ("loss", "bits_per_byte")
_BAD_KEY_CHARACTER = re.compile(r"[^\w\-. /:]")
STATUS_TAG = "glm_scale.status"
"""Our own word for how the run stands, of which MLflow has fewer."""
_MLFLOW_STATUS = {"finished": "FINISHED", "failed": "FAILED"}

_logger = logging.getLogger(__name__)


class Mirror:
    """One run directory and its MLflow run. The caller holds the run's tracking lock."""

    def __init__(self, run: RunDirectory, state: TrackingState) -> None:
        self.run = run
        self.state = state
        self._client: MlflowClient | None = None

    @property
    def connected(self) -> bool:
        """Whether the MLflow run is known to be there."""
        return self._client is not None

    def disconnect(self) -> None:
        """Forget the connection; the next call makes it anew and checks that the MLflow run is still there."""
        self._client = None

    def catch_up(self) -> None:
        """Send everything in metrics.jsonl that MLflow has not received."""
        client = self._connected()
        while (batch := self._next_batch()) is not None:
            metrics, mark = batch
            self._send(client, metrics)
            self.state.advance(mark)
            self.state.write(self.run)

    def finish(self) -> None:
        """Send what is left, upload the artifacts and set the final status, if the run has one by now."""
        self.catch_up()
        client, summary = self._connected(), self.run.read_summary()
        if summary.status == "running":
            return
        self._upload_artifacts(client)
        ended = None if summary.ended is None else round(summary.ended * 1000)
        if summary.status == "finished":
            at = ended or 0
            points = [Metric(name, value, at, summary.step) for name, value in outcome(self.run, summary)]
            self._send(client, points)
        client.set_tag(self._run_id, STATUS_TAG, summary.status)
        client.set_terminated(self._run_id, _MLFLOW_STATUS.get(summary.status, "KILLED"), ended)
        self.state.complete = True
        self.state.write(self.run)

    # The MLflow run --------------------------------------------------------------------------------------------

    @property
    def _run_id(self) -> str:
        assert self.state.run_id is not None, "the MLflow run is found or created on connecting"
        return self.state.run_id

    def _connected(self) -> MlflowClient:
        if self._client is None:
            client = open_store(self.state.uri)
            summary = self.run.read_summary()
            self._find_or_create_run(client, summary)
            if summary.status == "running":
                client.update_run(self._run_id, status="RUNNING")
            self._describe(client, summary)
            self._client = client
        return self._client

    def _find_or_create_run(self, client: MlflowClient, summary: RunSummary) -> None:
        if self.state.run_id is not None:
            known = active_run(client, self.state.run_id)
            if known is not None and not self._belongs_elsewhere(known):
                self._claim(client)
                return
            if known is None:
                _logger.warning("the MLflow run %s is gone; starting another and replaying", self.state.run_id)
                self.state.marks.clear()
            else:
                self.state.start_anew()
        experiment = find_or_create_experiment(client, self.state.experiment)
        # A creation whose answer got lost has left a run behind; its tag finds it.
        left_behind = client.search_runs([experiment], f"tags.`{UID_TAG}` = '{self.state.uid}'", max_results=1)
        if left_behind:
            self.state.run_id = left_behind[0].info.run_id
        else:
            self.state.write(self.run)
            tags = {UID_TAG: self.state.uid, "mlflow.user": _user(), "mlflow.source.name": "glm-scale"}
            if self.state.copy_of is not None:
                tags[COPY_TAG] = self.state.copy_of
                _logger.info("a copied run gets an MLflow run of its own; the original's is %s", self.state.copy_of)
            created = client.create_run(experiment, round(summary.started * 1000), tags, run_name=summary.name)
            self.state.run_id = created.info.run_id
        self.state.write(self.run)
        self._claim(client)

    def _belongs_elsewhere(self, known: Run) -> bool:
        tags = known.data.tags
        return self.state.belongs_elsewhere(self.run, Place.from_tag(tags.get(PLACE_TAG)), tags.get(_DIRECTORY_TAG))

    def _claim(self, client: MlflowClient) -> None:
        """Write into the MLflow run that it is the run of this directory."""
        here = Place.of(self.run)
        # Known before the tag says so: if this ends in between, the tag is still one of ours.
        self.state.places = [place for place in self.state.places if place != here] + [here]
        self.state.write(self.run)
        client.set_tag(self._run_id, PLACE_TAG, here.tag)
        self.state.places = [here]
        self.state.write(self.run)

    def _describe(self, client: MlflowClient, summary: RunSummary) -> None:
        """Parameters, tags and the files that are there from the start."""
        here = client.get_run(self._run_id)
        known = here.data.params
        parameters = run_parameters(self.run)
        tags = run_tags(self.run, summary)
        if (parent := _setting(self.run, "tracking", "parent")) is not None:
            tags[PARENT_TAG] = find_or_create_parent(client, here.info.experiment_id, str(parent))
        # MLflow's parameters never change. What a resumed run was told to do otherwise is kept as a tag.
        tags |= {f"resumed.{key}": text for key, text in parameters.items() if known.get(key, text) != text}
        new = [Param(key, text) for key, text in parameters.items() if key not in known]
        for start in range(0, len(new), MAX_PARAMS_TAGS_PER_BATCH):
            batch = new[start : start + MAX_PARAMS_TAGS_PER_BATCH]
            client.log_batch(self._run_id, params=batch, synchronous=True)
        entries = [RunTag(usable_key(key), text[:MAX_TAG_VAL_LENGTH]) for key, text in tags.items()]
        for start in range(0, len(entries), MAX_PARAMS_TAGS_PER_BATCH):
            batch_of_tags = entries[start : start + MAX_PARAMS_TAGS_PER_BATCH]
            client.log_batch(self._run_id, tags=batch_of_tags, synchronous=True)
        self._upload(client, self.run.config, self.run.version)

    def _upload_artifacts(self, client: MlflowClient) -> None:
        self._upload(client, self.run.config, self.run.version, self.run.summary, self.run.breakdown, self.run.tasks)
        for folder in (self.run.plots, self.run.samples, self.run.profile):
            if folder.is_dir() and any(folder.iterdir()):
                self._upload(client, folder)

    def _upload(self, client: MlflowClient, *paths: Path) -> None:
        """An artifact store of its own (a bucket, say) may be out of reach while metrics go through."""
        for path in paths:
            try:
                if path.is_dir():
                    client.log_artifacts(self._run_id, str(path), path.name)
                elif path.exists():
                    client.log_artifact(self._run_id, str(path))
            except Exception as error:
                if isinstance(error, MlflowException) and "API request" in str(error):
                    raise
                _logger.warning("could not upload %s to MLflow: %s", path.name, first_line(error))

    # Metrics ---------------------------------------------------------------------------------------------------

    def _next_batch(self) -> tuple[list[Metric], Mark] | None:
        """The next points to send and the place behind their records; None if there is nothing new."""
        path = self.run.metrics
        if not path.exists():
            return None
        offset = start = self.state.offset(path)
        metrics: list[Metric] = []
        with path.open("rb") as file:
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                with contextlib.suppress(ValueError):
                    points = list(metric_points(Record.from_json(line)))
                    if metrics and len(metrics) + len(points) > MAX_METRICS_PER_BATCH:
                        break
                    metrics += points[:MAX_METRICS_PER_BATCH]
                offset += len(line)
            return (metrics, Mark.at(file, offset)) if offset > start else None

    def _send(self, client: MlflowClient, metrics: list[Metric]) -> None:
        if not metrics:
            return
        try:
            client.log_batch(self._run_id, metrics=metrics, synchronous=True)
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            # One point that MLflow refuses must not hold up all that follow.
            if len(metrics) == 1:
                _logger.warning("MLflow refused %s at step %d: %s", metrics[0].key, metrics[0].step, first_line(error))
                return
            half = len(metrics) // 2
            self._send(client, metrics[:half])
            self._send(client, metrics[half:])


def metric_points(record: Record) -> Iterator[Metric]:
    """The MLflow points of a record, under the names that the module's docstring explains."""
    milliseconds = round(record.time * 1000)

    def point(name: str, value: float, step: int) -> Metric:
        return Metric(usable_key(name), value, milliseconds, step)

    if record.kind == "event":
        return
    for name in record.values:
        if (value := record.number(name)) is None:
            continue
        yield point(name if record.kind in ("breakdown", "statistics") else f"{record.kind}/{name}", value, record.step)
        if name in _COMPARED and record.kind in ("train", "validation"):
            yield point(f"by_tokens/{record.kind}/{name}", value, record.tokens)
            yield point(f"by_gflops/{record.kind}/{name}", value, round(record.flops / 1e9))
    if record.kind == "train":
        yield point("progress/tokens", record.tokens, record.step)
        yield point("progress/flops", record.flops, record.step)


def usable_key(name: str) -> str:
    """`name` with the characters and the length that MLflow allows for keys; what is no good becomes a slug."""
    parts = (slug(part) if _BAD_KEY_CHARACTER.search(part) else part for part in name.split("/"))
    return "/".join(parts)[:MAX_ENTITY_KEY_LENGTH]


def run_parameters(run: RunDirectory) -> dict[str, str]:
    """config.yaml as dotted keys and texts within MLflow's limits of length; nothing that is secret."""
    flat = without_secrets(dict(_flatten(run.read_config())))
    return {usable_key(key): text[:MAX_PARAM_VAL_LENGTH] for key, text in flat.items()}


def _flatten(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{name}.")
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            yield from _flatten(dict(enumerate(value)), f"{name}.")
        else:
            yield name, value if isinstance(value, str) else json.dumps(value, default=str)


def run_tags(run: RunDirectory, summary: RunSummary) -> dict[str, str]:
    """What one filters runs by."""
    version = run.read_version()
    own = _setting(run, "tracking", "tags")
    tags = {str(key): str(text) for key, text in own.items()} if isinstance(own, Mapping) else {}
    tags |= {
        "mixer": summary.mixer,
        "parameters": str(summary.parameters),
        "non_embedding_parameters": str(summary.non_embedding_parameters),
        "sequence_length": str(summary.sequence_length),
        _DIRECTORY_TAG: str(run.path),
        STATUS_TAG: summary.status,
    }
    seed, budget = _setting(run, "training", "seed"), _setting(run, "training", "tokens")
    if seed is not None and isinstance(budget, int):
        ratio = budget / max(summary.non_embedding_parameters, 1)
        tags |= {"seed": str(seed), "tokens": str(budget), "tokens_per_parameter": f"{ratio:.3g}"}
    if (trunk := _setting(run, "branch", "run")) is not None:
        tags["branch_of"] = str(trunk)
    if commit := version.get("git_commit"):
        dirty = bool(version.get("git_dirty"))
        tags |= {"git_commit": commit, "git_dirty": str(dirty).lower(), "mlflow.source.git.commit": commit}
    for package in ("glm_scale", "torch", "deepspeed"):
        if text := version.get(package):
            tags[f"version.{package}"] = str(text)
    return tags


def _setting(run: RunDirectory, group: str, key: str) -> Any:
    """A value of config.yaml; None if it is not there."""
    values = run.read_config().get(group)
    return values.get(key) if isinstance(values, Mapping) else None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
