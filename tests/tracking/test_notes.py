"""Descriptions in MLflow: ours are kept up to date, other people's are left alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from glm_scale.tracking.notes import CHECKSUM_TAG, NOTE_TAG, describe_experiment, describe_run


@pytest.fixture
def client(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.chdir(tmp_path)
    return MlflowClient(f"sqlite:///{shutil.copy(empty_store, tmp_path)}")


def test_our_note_follows_what_there_is_to_say(client):
    experiment = client.create_experiment("e")
    run = client.create_run(experiment).info.run_id
    for text in ("one", "two", "two", "three"):
        describe_experiment(client, experiment, text)
        describe_run(client, run, text)
        assert client.get_experiment(experiment).tags[NOTE_TAG] == text
        assert client.get_run(run).data.tags[NOTE_TAG] == text


@pytest.mark.parametrize("edited", ["one, and what I think of it", ""])
def test_a_note_that_was_edited_or_emptied_stays(client, edited):
    experiment = client.create_experiment("e")
    run = client.create_run(experiment).info.run_id
    describe_experiment(client, experiment, "one")
    describe_run(client, run, "one")
    client.set_experiment_tag(experiment, NOTE_TAG, edited)
    client.set_tag(run, NOTE_TAG, edited)
    for text in ("one", "two"):
        describe_experiment(client, experiment, text)
        describe_run(client, run, text)
        assert client.get_experiment(experiment).tags[NOTE_TAG] == edited
        assert client.get_run(run).data.tags[NOTE_TAG] == edited


def test_a_note_from_before_stays(client):
    run = client.create_run("0", tags={NOTE_TAG: "theirs"}).info.run_id
    describe_run(client, run, "ours")
    tags = client.get_run(run).data.tags
    assert tags[NOTE_TAG] == "theirs"
    assert CHECKSUM_TAG not in tags
