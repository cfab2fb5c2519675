"""Tracking URIs: which are refused."""

import pytest
from pydantic import ValidationError

from glm_scale.tracking import TrackingConfig


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "file:mlruns", "mlruns", "./mlflow.db", "/data/mlflow", ""])
def test_folders_are_refused_and_sqlite_is_named(uri):
    with pytest.raises(ValidationError, match=r"sqlite:///mlflow\.db"):
        TrackingConfig(uri=uri)


@pytest.mark.parametrize("uri", ["http://ada:engine@host:5000", "postgresql://ada:engine@host/mlflow"])
def test_a_password_in_the_uri_is_refused(uri):
    with pytest.raises(ValidationError, match="MLFLOW_TRACKING_PASSWORD"):
        TrackingConfig(uri=uri)


@pytest.mark.parametrize("uri", ["http://host:5000", "https://host", "htp://typo", "databricks", "sqlite:////a/b.db"])
def test_what_may_work_passes(uri):
    assert TrackingConfig(uri=uri).uri == uri
