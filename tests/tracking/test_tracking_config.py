"""Tracking URIs: which are refused, what is made absolute, and what never reaches MLflow."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from glm_scale.tracking import TrackingConfig
from glm_scale.tracking.uris import resolve_uri, store_folder, without_secrets


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


@pytest.mark.parametrize(
    ("uri", "resolved"),
    [
        ("sqlite:///mlflow.db", "sqlite:////base/mlflow.db"),
        ("sqlite:///../m.db?timeout=5", "sqlite:////m.db?timeout=5"),
        ("sqlite:////abs/m.db", "sqlite:////abs/m.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("http://host:5000", "http://host:5000"),
    ],
)
def test_a_relative_sqlite_path_starts_at_the_base(uri, resolved):
    assert resolve_uri(uri, Path("/base")) == resolved


def test_the_folder_of_a_store():
    assert store_folder("sqlite:////data/x/m.db?timeout=5") == Path("/data/x")
    assert store_folder("http://host") is None


def test_secrets_are_dropped_and_training_tokens_are_not():
    values = {
        "training.tokens": "1000",
        "training.batch_tokens": "10",
        "data.tokenizer": "t.model",
        "data.author": "Ada",
        "hub_token": "x",
        "data.token": "x",
        "tracking.password": "x",
        "aws.secret_access_key": "x",
        "apiKey": "x",
        "api_key": "x",
        "data.sources.0.path": "s3://me:pw@bucket/a",
    }
    assert without_secrets(values) == {
        "training.tokens": "1000",
        "training.batch_tokens": "10",
        "data.tokenizer": "t.model",
        "data.author": "Ada",
        "data.sources.0.path": "s3://bucket/a",
    }
