"""A comparison in MLflow: one run for each, brought up to date in place. Real sqlite stores."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from glm_scale.run_directory import RunDirectory
from glm_scale.scaling.comparison_run import log_comparison
from glm_scale.scaling.publication import LAW_TAG, Publication, Published
from glm_scale.tracking.links import VIEW_TAG
from glm_scale.tracking.notes import NOTE_TAG
from glm_scale.tracking.parents import PARENT_TAG
from glm_scale.tracking.place import Place


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{shutil.copy(empty_store, tmp_path)}"


def published(uri: str, folder: Path, files: dict[str, str], **changes: Any) -> Published:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    usual: dict[str, Any] = {
        "uri": uri, "experiment": "e", "name": "scaling: runs", "kind": "scaling",
        "place": Place.of(RunDirectory(folder)).tag, "parent": None, "under": None,
        "metrics": {"law/irreducible": 1.8}, "tags": {LAW_TAG: "E + …", "runs": "a, b"},
        "texts": {"runs.json": "{}", "points.csv": "run\n"}, "tables": ["runs.json"],
        "files": [folder / name for name in files], "colours": {}, "said": ["a is ahead"],
    }  # fmt: skip
    return log_comparison(Publication.model_validate(usual | changes))


def runs_of(uri: str) -> list[Run]:
    client = MlflowClient(uri)
    return list(client.search_runs([client.get_experiment_by_name("e").experiment_id]))


@pytest.mark.parametrize("parent", [None, "the ladder's"])
def test_what_is_logged_again_takes_the_place_of_the_earlier_one(uri, tmp_path, parent):
    page = {"scaling.html": "old", "scaling.json": "{}"}
    first = published(uri, tmp_path / "c", {**page, "law.pdf": "%PDF"}, parent=parent)
    client = MlflowClient(uri)
    (tmp_path / "mine.txt").write_text("of the user")
    client.log_artifact(first.run_id, str(tmp_path / "mine.txt"))
    refused = {LAW_TAG: "refused: 3 points for 5 unknowns", "runs": "a"}
    again = published(
        uri, tmp_path / "c", {**page, "scaling.html": "new"},
        parent=parent, metrics={}, tags=refused, said=["no law: 3 points"],
    )  # fmt: skip
    assert again == first
    (run,) = runs_of(uri)
    assert run.info.run_id == first.run_id
    assert run.info.status == "FINISHED"
    artifacts = {file.path for file in client.list_artifacts(first.run_id)}
    assert artifacts == {"scaling.html", "scaling.json", "runs.json", "points.csv", "mine.txt"}
    assert Path(client.download_artifacts(first.run_id, "scaling.html")).read_text() == "new"
    assert math.isnan(run.data.metrics["law/irreducible"]), "a law that is gone is no longer shown"
    assert run.data.tags[LAW_TAG] == "refused: 3 points for 5 unknowns"
    assert run.data.tags["runs"] == "a"
    assert "- no law: 3 points" in run.data.tags[NOTE_TAG]
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": "runs.json", "type": "table"}]


def test_every_folder_and_kind_has_a_run_of_its_own(uri, tmp_path):
    ids = {
        published(uri, tmp_path / name, {f"{kind}.html": "", f"{kind}.json": ""}, kind=kind).run_id
        for name in ("here", "there")
        for kind in ("scaling", "comparison")
    }
    assert len(ids) == 4
    here = Place.of(RunDirectory(tmp_path / "here"))
    files = {"scaling.html": "", "scaling.json": ""}
    seen = here.model_copy(update={"host": "node7", "device": 9})
    elsewhere = here.model_copy(update={"host": "node8", "inode": here.inode + 1})
    assert published(uri, tmp_path / "here", files, place=seen.tag).run_id in ids
    assert published(uri, tmp_path / "here", files, place=elsewhere.tag).run_id not in ids


def test_a_comparison_of_runs_of_one_ladder_stands_under_it(uri, tmp_path):
    found = published(uri, tmp_path / "c", {"scaling.html": "", "scaling.json": ""}, under="ladder")
    by_name = {run.info.run_name: run for run in runs_of(uri)}
    assert by_name["scaling: runs"].info.run_id == found.run_id
    assert by_name["scaling: runs"].data.tags[PARENT_TAG] == by_name["ladder"].info.run_id


def test_runs_get_the_colours_of_figures_unless_they_have_one(uri, tmp_path):
    client = MlflowClient(uri)
    experiment = client.create_experiment("e")
    plain = client.create_run(experiment).info.run_id
    painted = client.create_run(experiment, tags={"mlflow.runColor": "#123456"}).info.run_id
    colours = {plain: "#0072B2", painted: "#0072B2", "0" * 32: "#0072B2"}
    found = published(uri, tmp_path / "c", {"scaling.html": "", "scaling.json": ""}, colours=colours)
    tags = {run.info.run_id: run.data.tags for run in runs_of(uri)}
    assert tags[plain]["mlflow.runColor"] == "#0072B2"
    assert tags[painted]["mlflow.runColor"] == "#123456"
    view = json.loads(client.get_experiment(experiment).tags[f"{VIEW_TAG}{found.view}"])
    shown = client.search_runs([experiment], view["searchFilter"].replace(f", '{'0' * 32}'", ""))
    assert {run.info.run_id for run in shown} == {plain, painted}


def test_the_notes_say_where_the_figures_are_and_what_users_wrote_stays(uri, tmp_path):
    files = {"scaling.html": "", "scaling.json": ""}
    found = published(uri, tmp_path / "c", files)
    client = MlflowClient(uri)
    note = client.get_run(found.run_id).data.tags[NOTE_TAG]
    assert f"(#/experiments/{found.experiment_id}/runs/{found.run_id}/artifacts/scaling.html?" in note
    assert f"viewStateShareKey={found.view}" in note
    assert all(line == "" or line.endswith((".", ":", "ahead")) for line in note.splitlines()), "no broken paragraph"
    assert "`mixer`" in client.get_experiment(found.experiment_id).tags[NOTE_TAG]
    client.set_experiment_tag(found.experiment_id, NOTE_TAG, "ours")
    client.set_tag(found.run_id, NOTE_TAG, "mine")
    published(uri, tmp_path / "c", files, said=["b is ahead"])
    assert client.get_run(found.run_id).data.tags[NOTE_TAG] == "mine"
    assert client.get_experiment(found.experiment_id).tags[NOTE_TAG] == "ours"
