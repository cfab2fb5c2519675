"""A run directory that was copied, moved, or is seen from another machine: whose MLflow run it goes on in."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from glm_scale.run_directory import RunDirectory
from glm_scale.run_search import find_runs
from glm_scale.scaling.comparison import compare
from glm_scale.scaling.publish import where_to_publish
from glm_scale.scaling.report import Report
from glm_scale.tracking.mirror import COPY_TAG, PLACE_TAG, Mirror
from glm_scale.tracking.place import Place, is_copy
from glm_scale.tracking.state import Order, TrackingState, open_state
from tests.surroundings.tracked_runs import make_run, train


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def work(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a store in it."""
    (folder := tmp_path / "work").mkdir()
    shutil.copy(empty_store, folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


def mirror(run: RunDirectory, base: Path) -> str:
    """Do what the mirroring process does, once; returns the id of the MLflow run."""
    order = Order(run=run.path, uri=None, experiment="glm-scale", base=base)
    state = open_state(run, order)
    state.write(run)
    Mirror(run, state).finish()
    assert state.run_id is not None
    return state.run_id


def copied(run: RunDirectory, name: str) -> RunDirectory:
    return RunDirectory(shutil.copytree(run.path, run.path.with_name(name)))


def renamed(run: RunDirectory, name: str) -> RunDirectory:
    return RunDirectory(run.path.rename(run.path.with_name(name)))


def in_mlflow(work: Path, run_id: str) -> Run:
    return MlflowClient(f"sqlite:///{work}/mlflow.db").get_run(run_id)


def steps(work: Path, run_id: str) -> list[int]:
    history = MlflowClient(f"sqlite:///{work}/mlflow.db").get_metric_history(run_id, "train/loss")
    return sorted(point.step for point in history)


def test_a_copy_gets_an_mlflow_run_of_its_own_and_both_go_on(work):
    original = make_run(work / "runs")
    first = mirror(original, work)
    copy = copied(original, "b")
    train(copy, 21, 30)
    second = mirror(copy, work)
    assert second != first
    assert in_mlflow(work, second).data.tags[COPY_TAG] == first
    assert COPY_TAG not in in_mlflow(work, first).data.tags
    assert steps(work, second) == list(range(1, 31)), "the whole history"
    assert steps(work, first) == list(range(1, 21)), "none of the copy's"

    train(original, 21, 25)
    assert mirror(original, work) == first
    assert mirror(copy, work) == second
    assert steps(work, first) == list(range(1, 26))
    assert steps(work, second) == list(range(1, 31))


def test_a_run_that_was_renamed_goes_on_in_its_mlflow_run(work):
    run = make_run(work / "runs")
    first = mirror(run, work)
    moved = renamed(run, "b")
    train(moved, 21, 30)
    assert mirror(moved, work) == first
    assert steps(work, first) == list(range(1, 31))
    place = Place.from_tag(in_mlflow(work, first).data.tags[PLACE_TAG])
    assert place is not None
    assert place.path == moved.path


def test_a_copy_whose_original_is_gone_is_the_run(work):
    run = make_run(work / "runs")
    first = mirror(run, work)
    copy = copied(run, "b")
    shutil.rmtree(run.path)
    assert mirror(copy, work) == first


def test_of_two_copies_without_original_the_first_goes_on_and_the_other_is_told_by_mlflow(work):
    run = make_run(work / "runs")
    first = mirror(run, work)
    one, two = copied(run, "b"), copied(run, "c")
    shutil.rmtree(run.path)
    assert mirror(one, work) == first
    second = mirror(two, work)
    assert second != first
    assert in_mlflow(work, second).data.tags[COPY_TAG] == first
    assert steps(work, second) == list(range(1, 21))


@pytest.mark.parametrize("copy_first", [True, False])
def test_a_copy_in_the_place_of_a_renamed_original_never_mixes_with_it(work, copy_first):
    run = make_run(work / "runs")
    first = mirror(run, work)
    moved = renamed(run, "b")
    back = copied(moved, "a")
    order = [back, moved] if copy_first else [moved, back]
    assert [mirror(each, work) == first for each in order] == [True, False]


def test_a_copy_of_an_earlier_version_is_told_by_the_tag_of_that_time(work):
    run = make_run(work / "runs")
    first = mirror(run, work)
    client = MlflowClient(f"sqlite:///{work}/mlflow.db")
    client.delete_tag(first, PLACE_TAG)
    state = TrackingState.read(run)
    assert state is not None
    early = state.model_dump_json(exclude={"places", "copy_of"})
    run.tracking.write_text(early)
    copy = copied(run, "b")
    assert mirror(copy, work) != first
    assert mirror(run, work) == first


def test_an_mlflow_run_of_its_own_is_not_made_twice(work):
    run = make_run(work / "runs")
    mirror(run, work)
    copy = copied(run, "b")
    second = mirror(copy, work)
    assert mirror(copy, work) == second
    third = copied(copy, "c")
    assert in_mlflow(work, mirror(third, work)).data.tags[COPY_TAG] == second


class TestOtherMachines:
    HERE = Place(host="here", path=Path("/scratch/a"), device=1, inode=2)

    @pytest.mark.parametrize(
        ("changes", "copy"),
        [
            ({}, False),
            ({"host": "node7"}, False),  # a file system that both see
            ({"host": "node7", "device": 9}, False),  # mounted there as another device
            ({"host": "box", "path": Path("/workspace/a")}, False),  # a container of this machine
            ({"host": "node7", "inode": 9}, True),  # rsync to the same path
            ({"host": "node7", "path": Path("/home/b"), "device": 9}, True),
            ({"inode": 9, "device": 9}, False),  # restored from a backup
            ({"path": Path("/scratch/b")}, False),  # renamed
            ({"path": Path("/scratch/b"), "inode": 9}, False),  # moved to another disk: nothing lies there any more
        ],
    )
    def test_what_is_taken_for_a_copy(self, changes, copy):
        assert is_copy(self.HERE.model_copy(update=changes), self.HERE, "uid") is copy

    def test_a_run_that_is_restarted_on_another_node_goes_on(self, work, monkeypatch):
        run = make_run(work / "runs")
        first = mirror(run, work)
        for node in ("node1", "node2", "node1"):
            monkeypatch.setattr(socket, "gethostname", lambda node=node: node)
            assert mirror(run, work) == first

    def test_a_copy_on_another_machine_gets_its_own(self, work, monkeypatch):
        run = make_run(work / "runs")
        first = mirror(run, work)
        copy = copied(run, "b")
        monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
        assert mirror(copy, work) != first


def where(*runs: RunDirectory) -> tuple[str, str] | None:
    return where_to_publish(Report("comparison: x", compare(runs), None, ()), None)


class TestStores:
    def test_the_comparison_of_a_copied_folder_goes_to_its_own_store(self, work, tmp_path, monkeypatch):
        make_run(work / "runs")
        mirror(RunDirectory(work / "runs" / "a"), work)
        assert where(*find_runs([work / "runs"])) == (f"sqlite:///{work}/mlflow.db", "glm-scale")
        theirs = Path(shutil.copytree(work, tmp_path / "theirs"))
        monkeypatch.chdir(theirs)
        assert where(*find_runs([theirs / "runs"])) == (f"sqlite:///{theirs}/mlflow.db", "glm-scale")
        mirror(RunDirectory(theirs / "runs" / "a"), theirs)
        monkeypatch.chdir(tmp_path)
        assert where(*find_runs([theirs / "runs"])) == (f"sqlite:///{theirs}/mlflow.db", "glm-scale")

    def test_a_run_that_was_tracked_goes_before_a_copy(self, work):
        run = make_run(work / "runs")
        mirror(run, work)
        copy = copied(run, "0-first")
        state = TrackingState.read(copy)
        assert state is not None
        run.tracking.write_text(state.model_copy(update={"uri": "http://team:5000"}).model_dump_json())
        assert where(copy, run) == ("http://team:5000", "glm-scale")

    def test_a_folder_that_was_moved_takes_its_database_along(self, work, tmp_path, monkeypatch):
        first = mirror(make_run(work / "runs"), work)
        moved = work.rename(tmp_path / "moved")
        monkeypatch.chdir(moved)
        assert mirror(RunDirectory(moved / "runs" / "a"), moved) == first
        assert in_mlflow(moved, first).info.run_id == first
        assert not (work / "mlflow.db").exists()
