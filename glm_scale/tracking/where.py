"""Where a run is tracked: the rule of `glm_scale.tracking.uris`, applied to a run directory."""

from __future__ import annotations

import yaml

from glm_scale.errors import UserError
from glm_scale.runs import RunDirectory
from glm_scale.tracking.config import TrackingConfig
from glm_scale.tracking.state import TrackingState
from glm_scale.tracking.uris import check_uri, choose_uri, resolve_uri


def where_tracked(run: RunDirectory, config: TrackingConfig | None = None) -> tuple[str, str]:
    """The store, sqlite paths absolute, and the experiment that a run is tracked in, or would be if it went on now.

    `config`: what its next start is told; None takes what config.yaml says if it has not been tracked yet.
    Raises UserError for a MLFLOW_TRACKING_URI that MLflow cannot use, if it comes to that.
    """
    state, told = TrackingState.read_own(run), config.uri if config else None
    if state is not None and told in (None, state.requested_uri, state.uri):
        return state.uri, state.experiment
    config = config or configured_tracking(run)
    return resolve_uri(chosen_uri(config.uri)), config.experiment


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
        content = yaml.safe_load(run.config.read_text(encoding="utf-8"))
        return TrackingConfig.model_validate((content or {}).get("tracking") or {})
    except (OSError, yaml.YAMLError, AttributeError, ValueError):
        return TrackingConfig()
