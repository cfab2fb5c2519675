"""Logs a report to MLflow, from a process of its own that is given a limited time (see glm_scale.tracking.worker)."""

from __future__ import annotations

import subprocess
import sys

from glm_scale.scaling.publication import Publication, Published, publication_of
from glm_scale.scaling.report import Report
from glm_scale.tracking.config import TrackingConfig
from glm_scale.tracking.reach import check_store, explain
from glm_scale.tracking.state import TrackingState
from glm_scale.tracking.tracker import mlflow_environment
from glm_scale.tracking.uris import resolve_uri
from glm_scale.tracking.where import where_tracked

_ANSWER_S = 10.0
_TIMEOUT_S, _OF_A_RUN_S = 180.0, 0.5
"""What a slow machine takes to import MLflow and to make a new database; a server that does not answer is found out
before."""


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


def publish(report: Report, uri: str, experiment: str, parent: str | None = None) -> Published:
    """Log the report to MLflow, in place of an earlier one: into the run under which its runs stand (`parent`, see
    `tracking.parent`), or into a run of its own, of which there is one for each folder that reports are written to.

    Raises RuntimeError with the reason if that was not possible within three minutes, and half a second for each run.
    """
    publication = publication_of(report, uri, experiment, parent)
    timeout = _TIMEOUT_S + _OF_A_RUN_S * len(publication.colours)
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
    return Published.model_validate_json(done.stdout.strip().rpartition("\n")[2])


def main() -> int:
    """Publish what stands on standard input; returns the exit code."""
    publication = Publication.model_validate_json(sys.stdin.read())
    try:
        check_store(publication.uri, _ANSWER_S)
        # The import is part of what must not hold up the caller, and of what may fail.
        from glm_scale.scaling.comparison_run import log_comparison

        print(log_comparison(publication).model_dump_json())
    except Exception as error:
        print(explain(error, publication.uri))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
