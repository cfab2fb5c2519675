"""Delivers to MLflow, after the fact, what a run directory holds and MLflow lacks."""

from __future__ import annotations

import logging
from pathlib import Path

from glm_scale.errors import UserError
from glm_scale.run_directory import RunDirectory
from glm_scale.tracking.state import Order, TrackingState
from glm_scale.tracking.tracker import Worker
from glm_scale.tracking.where import check_option, chosen_uri, configured_tracking

_logger = logging.getLogger("glm_scale.tracking")


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
    check_option(uri)
    configured, state = configured_tracking(run), TrackingState.read_own(run)
    if state is None:
        uri = uri or configured.uri
        chosen_uri(uri)
    order = Order(
        run=run.path,
        uri=uri,
        experiment=experiment or (state.experiment if state else configured.experiment),
        base=Path.cwd(),
        patience=timeout,
    )
    try:
        worker = Worker(run, order, _logger.error)
    except OSError as error:
        raise UserError(f"the process that speaks to MLflow could not be started: {error}") from error
    # The worker gives up by itself when nothing gets through; a long log may take as long as it needs.
    if worker.wait(None) == 0:
        return TrackingState.read(run)
    _logger.error("%s", worker.missed or f"see {run.tracking_log}")
    return None
