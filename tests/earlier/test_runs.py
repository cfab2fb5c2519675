"""Runs that an earlier version began, in every way to lay one out, go on as they would have gone on with it."""

import contextlib
import json
import shutil
import sqlite3
from functools import partialmethod
from pathlib import Path

import pytest
import yaml
from mlflow.tracking import MlflowClient

from glm_scale.config import RunConfig, validate
from glm_scale.run.train import train
from glm_scale.run_directory import RunDirectory
from glm_scale.tracking.place import Place
from glm_scale.tracking.tracker import Tracker
from tests.earlier.curves import losses_of
from tests.earlier.make import RUNS, STEPS, STOPPED_AT
from tests.run import sessions
from tests.tiny_run import SAME_LOSSES


@pytest.fixture
def place(earlier: Path, tmp_path: Path) -> Path:
    """A copy of what the archive holds that a test may change."""
    return shutil.copytree(earlier, tmp_path / "place")


def _moved(place: Path, name: str) -> dict:
    """The configuration of a run, with the paths that it has now, and time to come to its end."""
    written = (place / "runs" / name / "config.yaml").read_text()
    before = Path(yaml.safe_load(written)["run_root"]).parent
    tree = yaml.safe_load(written.replace(str(before), str(place)))
    tree["training"]["time_limit_minutes"] = None
    return tree


def _lay_here(place: Path, run: RunDirectory) -> None:
    """Let tracking.json and the database say that both have always been where they are now."""
    content = json.loads(run.tracking.read_text())
    recorded, here = Place.model_validate(content["places"][-1]), Place.of(run)
    before = recorded.path.parent.parent
    for key in ("uri", "requested_uri"):
        content[key] = content[key].replace(str(before), str(place))
    run.tracking.write_text(json.dumps({**content, "places": [here.model_dump(mode="json")]}))
    with contextlib.closing(sqlite3.connect(place / "mlflow.db")) as database, database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(before), str(place)))
        changed = database.execute("UPDATE tags SET value = ? WHERE value = ?", (here.tag, recorded.tag))
        assert changed.rowcount == 1


@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_on(place, processes, name):
    tree = _moved(place, name)
    tree["tracking"]["enabled"] = False
    if {"data", "tensor", "sequence"} & RUNS[name].keys():
        processes.run(2, sessions.run, tree)
    else:
        train(validate(RunConfig, tree, "the test"))
    found = losses_of(place / "runs" / name)
    assert len(found) == STEPS
    assert found[STOPPED_AT:] == pytest.approx(json.loads((place / "losses.json").read_text())[name], rel=SAME_LOSSES)


def test_a_run_goes_on_in_its_mlflow_run(place, monkeypatch):
    # On a busy machine MLflow takes longer than a user would wait.
    monkeypatch.setattr(Tracker, "close", partialmethod(Tracker.close, deadline=120.0))
    run = RunDirectory(place / "runs" / "tracked")
    _lay_here(place, run)
    number = json.loads(run.tracking.read_text())["run_id"]
    train(validate(RunConfig, _moved(place, "tracked"), "the test"))
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    (tracked,) = client.search_runs(["1"])
    assert (tracked.info.run_id, tracked.info.status) == (number, "FINISHED")
    assert [point.step for point in client.get_metric_history(number, "train/loss")] == [*range(1, STEPS + 1)]
