"""What is made of tracking URIs, and what never reaches MLflow."""

from pathlib import Path

import pytest

from glm_scale.tracking.uris import resolve_uri, store_folder, without_secrets


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
