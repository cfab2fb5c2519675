"""Logs a report to MLflow, from a process of its own that is given a limited time (see glm_scale.tracking.worker)."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from glm_scale.naming import slug
from glm_scale.scaling.laws import Bootstrap, Multiplier
from glm_scale.scaling.report import Report
from glm_scale.tracking.config import TrackingConfig
from glm_scale.tracking.reach import check_store, explain
from glm_scale.tracking.state import TrackingState
from glm_scale.tracking.tracker import mlflow_environment
from glm_scale.tracking.uris import resolve_uri
from glm_scale.tracking.where import where_tracked

_ANSWER_S = 10.0


class Publication(BaseModel):
    """What goes into the MLflow run of a report, and to where."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    uri: str
    experiment: str
    name: str
    parent: str | None = None
    metrics: dict[str, float]
    tags: dict[str, str]
    artifacts: list[Path]


def where_to_publish(report: Report, uri: str | None) -> tuple[str, str] | None:
    """Tracking URI and experiment for a report: `uri`, or those of the first compared run that has been tracked.

    A copied run that has not been trained on itself has not been tracked: it counts only where no other run does, and
    then as if it went on now. None if no run has been tracked, nor a run that one of them was copied from.
    """
    runs = [run.directory for run in report.comparison.runs]
    tracked = [run for run in runs if TrackingState.read_own(run)] or [run for run in runs if TrackingState.read(run)]
    if not tracked:
        return None if uri is None else (resolve_uri(uri), TrackingConfig().experiment)
    store, experiment = where_tracked(tracked[0])
    return (store if uri is None else resolve_uri(uri)), experiment


def publish(report: Report, uri: str, experiment: str, timeout: float = 30.0, parent: str | None = None) -> str:
    """Log the report to MLflow: as a run of its own, or into that under which its runs stand (`tracking.parent`), where
    it takes the place of an earlier one.

    Returns the run id. Raises RuntimeError with the reason if that was not possible within `timeout` seconds.
    """
    publication = Publication(
        uri=uri,
        experiment=experiment,
        name=report.name,
        parent=parent,
        metrics=dict(_metrics(report)),
        tags={"kind": report.name.partition(":")[0], "runs": ", ".join(run.name for run in report.comparison.runs)},
        artifacts=[path.resolve() for path in report.files],
    )
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "glm_scale.scaling.publish"],
            input=publication.model_dump_json(),
            capture_output=True,
            text=True,
            timeout=timeout,
            env=mlflow_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"no answer within {timeout:.0f} seconds") from error
    except OSError as error:
        raise RuntimeError(str(error)) from error
    if done.returncode != 0:
        raise RuntimeError(done.stdout.strip() or done.stderr.strip().rpartition("\n")[2])
    return done.stdout.strip()


def _metrics(report: Report) -> Iterator[tuple[str, float]]:
    for run in report.comparison.runs:
        for name, value in (("validation_loss", run.validation_loss), ("bits_per_byte", run.bits_per_byte)):
            if value is not None:
                yield f"{name}/{slug(run.name)}", value
    if report.answer is not None and isinstance(report.answer.law, Bootstrap):
        for mixer, law in report.answer.law.fit.laws.items():
            for name, value in vars(law).items():
                yield f"scaling/{slug(mixer)}/{name}", value
        for found in report.answer.multipliers:
            if isinstance(found, Multiplier):
                prefix = f"scaling/{slug(found.mixer)}/{slug(found.unit)}_beside_{slug(found.reference)}"
                for end, value in vars(found.ratio).items():
                    yield f"{prefix}/{end}", value


def main() -> int:
    """Publish what stands on standard input; returns the exit code."""
    publication = Publication.model_validate_json(sys.stdin.read())
    try:
        check_store(publication.uri, _ANSWER_S)
        print(_log(publication))
    except Exception as error:
        print(explain(error, publication.uri))
        return 1
    return 0


def _log(publication: Publication) -> str:
    from mlflow.entities import Metric
    from mlflow.utils.validation import MAX_METRICS_PER_BATCH, MAX_TAG_VAL_LENGTH

    from glm_scale.tracking.mirror import usable_key
    from glm_scale.tracking.parents import find_or_create_parent
    from glm_scale.tracking.store import find_or_create_experiment, open_store

    client = open_store(publication.uri)
    experiment = find_or_create_experiment(client, publication.experiment)
    if publication.parent is not None:
        run_id = find_or_create_parent(client, experiment, publication.parent)
        client.set_tag(run_id, "runs", publication.tags["runs"][:MAX_TAG_VAL_LENGTH])
    else:
        run_id = client.create_run(experiment, run_name=publication.name, tags=publication.tags).info.run_id
    now = round(time.time() * 1000)
    metrics = [Metric(usable_key(name), value, now, 0) for name, value in publication.metrics.items()]
    for start in range(0, len(metrics), MAX_METRICS_PER_BATCH):
        batch = metrics[start : start + MAX_METRICS_PER_BATCH]
        client.log_batch(run_id, metrics=batch, synchronous=True)
    for path in publication.artifacts:
        client.log_artifact(run_id, str(path))
    if publication.parent is None:
        client.set_terminated(run_id)
    return run_id


if __name__ == "__main__":
    sys.exit(main())
