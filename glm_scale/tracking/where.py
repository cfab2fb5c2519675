"""Where a run is tracked: the rule of `glm_scale.tracking.uris`, applied to a run directory."""

from __future__ import annotations

from pathlib import Path

from glm_scale.errors import UserError
from glm_scale.run_directory import RunDirectory
from glm_scale.tracking.config import TrackingConfig
from glm_scale.tracking.state import Order, TrackingState, open_state
from glm_scale.tracking.uris import check_uri, choose_uri


def where_tracked(run: RunDirectory, config: TrackingConfig | None = None) -> tuple[str, str]:
    """The store, sqlite paths absolute, and the experiment that a run is tracked in, or would be if it went on now.

    `config`: what its next start is told; None takes what config.yaml says if it has not been tracked yet.
    Raises UserError for a MLFLOW_TRACKING_URI that MLflow cannot use, if it comes to that.
    """
    tracked = TrackingState.read_own(run) if config is None else None
    told = config or configured_tracking(run)
    order = Order(
        run=run.path,
        uri=None if tracked else told.uri,
        experiment=tracked.experiment if tracked else told.experiment,
        base=Path.cwd(),
    )
    try:
        state = open_state(run, order)
    except ValueError as error:
        raise UserError(str(error)) from error
    return state.uri, state.experiment


def chosen_uri(told: str | None) -> str:
    """The store of what has not been tracked yet. Raises UserError where MLFLOW_TRACKING_URI is none."""
    try:
        return choose_uri(told)
    except ValueError as error:
        raise UserError(str(error)) from error


def check_option(uri: str | None) -> None:
    """Raise UserError for a --tracking-uri that MLflow cannot use."""
    try:
        if uri is not None:
            check_uri(uri)
    except ValueError as error:
        raise UserError(f"--tracking-uri: {error}") from error


def configured_tracking(run: RunDirectory) -> TrackingConfig:
    """The tracking section of the run's config.yaml; the defaults where it has none."""
    try:
        return TrackingConfig.model_validate(run.read_config().get("tracking") or {})
    except ValueError:
        return TrackingConfig()
