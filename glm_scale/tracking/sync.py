"""Delivers to MLflow, after the fact, what a run directory holds and MLflow lacks."""

from __future__ import annotations

from pathlib import Path

import yaml

from glm_scale.errors import UserError
from glm_scale.runs import RunDirectory
from glm_scale.tracking.config import TrackingConfig, check_uri
from glm_scale.tracking.state import Order, TrackingState
from glm_scale.tracking.tracker import Worker


def sync(
    run: RunDirectory, uri: str | None = None, experiment: str | None = None, timeout: float = 60.0
) -> TrackingState | None:
    """Replay the run; returns the state of its MLflow run, or None if not everything could be delivered.

    A run whose process is gone without a word is set to killed. `uri` and `experiment` default to those the
    run was tracked with, or else was configured with. A server that does not answer is given up after `timeout`
    seconds without success; the messages are in the log. Raises UserError for a folder that is no run, and for a
    URI that MLflow cannot use.
    """
    run.read_summary()
    configured = _configured(run)
    if uri is not None:
        try:
            check_uri(uri)
        except ValueError as error:
            raise UserError(f"--tracking-uri: {error}") from error
    state = TrackingState.read(run)
    if state is not None:
        uri, experiment = uri or state.requested_uri, experiment or state.experiment
    order = Order(
        run=run.path,
        uri=uri or configured.uri,
        experiment=experiment or configured.experiment,
        base=Path.cwd(),
        patience=timeout,
    )
    try:
        worker = Worker(run, order)
    except OSError as error:
        raise UserError(f"the process that speaks to MLflow could not be started: {error}") from error
    # The worker gives up by itself when nothing gets through; a long log may take as long as it needs.
    return TrackingState.read(run) if worker.wait(None) == 0 else None


def _configured(run: RunDirectory) -> TrackingConfig:
    """The tracking section of the run's config.yaml; the defaults where it has none."""
    try:
        content = yaml.safe_load(run.config.read_text())
        return TrackingConfig.model_validate((content or {}).get("tracking") or {})
    except (OSError, yaml.YAMLError, AttributeError, ValueError):
        return TrackingConfig()
