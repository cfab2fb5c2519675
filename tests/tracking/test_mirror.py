"""The MLflow copy of a run: what it holds, and that it stays right when things go wrong. Real sqlite stores."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.tracking import MlflowClient

from glm_scale.run_directory import RunDirectory
from glm_scale.tracking import MetricsLog, parents
from glm_scale.tracking.mirror import Mirror, metric_points, run_parameters
from glm_scale.tracking.state import Mark, TrackingState
from tests.tracking.synthetic_training import only_run, steps_of, train


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)  # where MLflow puts the artifacts of a sqlite store
    return f"sqlite:///{shutil.copy(empty_store, tmp_path)}"


def state_for(uri: str) -> TrackingState:
    return TrackingState(requested_uri=uri, uri=uri, experiment="glm-scale")


def state_of(run: RunDirectory) -> TrackingState:
    """What it was left with."""
    state = TrackingState.read(run)
    assert state is not None
    return state


def test_a_finished_run_is_copied_whole(make_run, uri):
    run = make_run(started=1000.0)
    with MetricsLog(run.metrics) as log:
        train(log, 1, 300)
        log.append("validation", step=300, tokens=3000, flops=1.8e13, loss=2.5, bits_per_byte=1.25, final=True)
        log.append("event", step=300, tokens=3000, flops=1.8e13, message="done")
        log.append_here("system", cpu_percent=50.0)
    (run.plots / "curve.png").write_bytes(b"png")
    run.update_summary(status="finished", ended=2000.0)

    Mirror(run, state_for(uri)).finish()

    client, copy = MlflowClient(uri), only_run(uri)
    assert copy.info.status == "FINISHED"
    assert (copy.info.start_time, copy.info.end_time) == (1_000_000, 2_000_000)
    assert copy.info.run_name == "small"
    assert copy.data.params["model.mixers"] == '["lattice:2^k"]'
    assert copy.data.params["data.sources.0.path"] == "corpus"
    assert copy.data.params["training.tokens"] == "1000"
    assert "hush" not in str(copy.data)
    assert copy.data.tags["mixer"] == "lattice:2^k"
    assert copy.data.tags["parameters"] == "1000"
    assert copy.data.tags["git_commit"] == run.read_version()["git_commit"]
    assert steps_of(uri, "train/loss") == [(step, 10 / step) for step in range(1, 301)]
    assert steps_of(uri, "by_tokens/train/loss") == [(10 * step, 10 / step) for step in range(1, 301)]
    assert steps_of(uri, "by_gflops/train/loss") == [(60 * step, 10 / step) for step in range(1, 301)]
    assert steps_of(uri, "progress/tokens") == [(step, 10 * step) for step in range(1, 301)]
    assert steps_of(uri, "by_gflops/validation/bits_per_byte") == [(18000, 1.25)]
    assert steps_of(uri, "system/cpu_percent") == [(300, 50.0)]
    assert not {name for name in copy.data.metrics if "event" in name or name.endswith("/final")}
    assert copy.data.metrics["final/loss"] == 2.5
    assert copy.data.metrics["final/bits_per_byte"] == 1.25
    assert copy.data.metrics["final/parameters"] == 1000
    files = {item.path for item in client.list_artifacts(copy.info.run_id)}
    assert files == {"config.yaml", "version.json", "summary.json", "plots"}
    assert state_of(run).complete


def test_copying_twice_changes_nothing(make_run, uri):
    run = make_run(status="failed", ended=5.0)
    with MetricsLog(run.metrics) as log:
        train(log, 1, 50)
    state = state_for(uri)
    Mirror(run, state).finish()
    state.marks.clear()
    Mirror(run, state).finish()
    assert steps_of(uri, "train/loss") == [(step, 10 / step) for step in range(1, 51)]
    assert only_run(uri).info.status == "FAILED"


def test_non_finite_numbers_do_not_stop_the_rest(make_run, uri):
    run = make_run()
    with MetricsLog(run.metrics) as log:
        log.append("train", step=1, tokens=1, flops=1, loss=math.nan, grad_norm=math.inf)
        train(log, 2, 2)
    Mirror(run, state_for(uri)).catch_up()
    (first, second) = steps_of(uri, "train/loss")
    assert math.isnan(first[1])
    assert second == (2, 5.0)
    assert steps_of(uri, "train/grad_norm")[0][1] > 1e300


def test_one_point_that_mlflow_refuses_does_not_hold_up_the_others(make_run, uri, caplog):
    run = make_run()
    with MetricsLog(run.metrics) as log:
        train(log, 1, 5)
        log.append("train", step=6, tokens=60, flops=1, loss=1.0, **{"../odd": 1.0})
        train(log, 7, 9)
    Mirror(run, state_for(uri)).catch_up()
    assert [step for step, _ in steps_of(uri, "train/loss")] == list(range(1, 10))
    assert "refused train/../odd at step 6" in caplog.text


def test_a_resumed_run_continues_its_mlflow_run_and_keeps_what_was_changed(make_run, uri):
    run = make_run()
    log = MetricsLog(run.metrics)
    train(log, 1, 20)
    Mirror(run, state_for(uri)).catch_up()

    log.truncate(after_step=10)
    train(log, 11, 30)
    run.config.write_text(run.config.read_text().replace("tokens: 1000", "tokens: 2000"))
    run.update_summary(status="finished", ended=time.time())
    Mirror(run, state_of(run)).finish()

    copy = only_run(uri)
    assert copy.info.status == "FINISHED"
    assert {step for step, _ in steps_of(uri, "train/loss")} == set(range(1, 31))
    assert copy.data.params["training.tokens"] == "1000"
    assert copy.data.tags["resumed.training.tokens"] == "2000"


def test_a_creation_whose_answer_was_lost_is_not_repeated(make_run, uri, monkeypatch):
    run = make_run()
    create = MlflowClient.create_run

    def create_and_lose_the_answer(*args, **kwargs):
        create(*args, **kwargs)
        raise ConnectionError("lost")

    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "create_run", create_and_lose_the_answer)
        with pytest.raises(ConnectionError):
            Mirror(run, state_for(uri)).catch_up()
    Mirror(run, state_of(run)).catch_up()
    assert only_run(uri).info.run_id == state_of(run).run_id


def test_a_batch_whose_answer_was_lost_is_not_doubled(make_run, uri, monkeypatch):
    run = make_run()
    with MetricsLog(run.metrics) as log:
        train(log, 1, 40)
    mirror = Mirror(run, state_for(uri))
    log_batch = MlflowClient.log_batch

    def log_and_lose_the_answer(*args, **kwargs):
        log_batch(*args, **kwargs)
        if kwargs.get("metrics"):
            raise ConnectionError("lost")

    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "log_batch", log_and_lose_the_answer)
        with pytest.raises(ConnectionError):
            mirror.catch_up()
    mirror.disconnect()
    mirror.catch_up()
    assert steps_of(uri, "train/loss") == [(step, 10 / step) for step in range(1, 41)]


def test_an_mlflow_run_deleted_meanwhile_is_made_again_with_everything(make_run, uri):
    run = make_run()
    log = MetricsLog(run.metrics)
    train(log, 1, 5)
    Mirror(run, state_for(uri)).catch_up()
    MlflowClient(uri).delete_run(only_run(uri).info.run_id)
    train(log, 6, 9)
    Mirror(run, state_of(run)).catch_up()
    assert [step for step, _ in steps_of(uri, "train/loss")] == list(range(1, 10))


def test_a_deleted_experiment_is_explained(make_run, uri):
    client = MlflowClient(uri)
    client.delete_experiment(client.create_experiment("glm-scale"))
    with pytest.raises(ValueError, match=r"'glm-scale' was deleted .*tracking\.experiment"):
        Mirror(make_run(), state_for(uri)).catch_up()


def test_a_line_still_being_written_waits_for_its_end(make_run, uri):
    run = make_run()
    with MetricsLog(run.metrics) as log:
        train(log, 1, 2)
    whole = run.metrics.read_bytes()
    run.metrics.write_bytes(whole[:-9])
    mirror = Mirror(run, state_for(uri))
    mirror.catch_up()
    assert [step for step, _ in steps_of(uri, "train/loss")] == [1]
    run.metrics.write_bytes(whole)
    mirror.catch_up()
    assert [step for step, _ in steps_of(uri, "train/loss")] == [1, 2]


def test_long_and_odd_parameters_fit_mlflows_limits(make_run):
    run = make_run()
    run.config.write_text(json.dumps({"a": {"b" * 300: "v" * 9000, "näme?": None}, "empty": {}, "list": [1, 2.5]}))
    parameters = run_parameters(run)
    assert {len(key) for key in parameters if "bbb" in key} == {250}
    assert max(len(text) for text in parameters.values()) == 6000
    assert [text for key, text in parameters.items() if key.startswith("a.name-")] == ["null"]
    assert parameters["empty"] == "{}"
    assert parameters["list"] == "[1, 2.5]"


def test_flops_of_the_largest_runs_fit_an_mlflow_step(make_run):
    run = make_run()
    with MetricsLog(run.metrics) as log:
        record = log.append("train", step=10**7, tokens=10**14, flops=1e25, loss=1.0)
    assert {point.key: point.step for point in metric_points(record)}["by_gflops/train/loss"] == 10**16


def test_parts_of_a_loss_are_metrics_whose_names_sort(make_run):
    with MetricsLog(make_run().metrics) as log:
        record = log.append("breakdown", step=4, tokens=5, flops=6.0, **{"position/0000016": 1.5, "kind/new": 2.5})
    points = [(point.key, point.value, point.step) for point in metric_points(record)]
    assert points == [("position/0000016", 1.5, 4), ("kind/new", 2.5, 4)]


attempts = st.lists(st.tuples(st.floats(0, 1), st.lists(st.booleans(), max_size=100)), min_size=1, max_size=4)


@settings(deadline=None)
@given(attempts=attempts)
def test_reading_goes_on_where_the_log_is_still_what_was_sent(tmp_path_factory, attempts):
    """Each attempt cuts the log somewhere, writes lines (True: the mirror has caught up after it) and is mirrored."""
    metrics = tmp_path_factory.mktemp("marks") / "metrics.jsonl"
    metrics.write_bytes(b"")
    state = TrackingState(requested_uri="u", uri="u", experiment="e")
    content = sent = b""
    for number, (kept, lines) in enumerate(attempts):
        content = content[: int(kept * content.count(b"\n")) * 12]
        for line, caught_up in enumerate(lines):
            content += f"{number:03d}-{line:07d}\n".encode()
            if caught_up:
                metrics.write_bytes(content)
                state.offset(metrics)
                with metrics.open("rb") as file:
                    state.advance(Mark.at(file, len(content)))
                sent = content
        metrics.write_bytes(content)
        offset = state.offset(metrics)
        assert sent[:offset] == content[:offset]
        assert len(state.marks) <= 64
    with metrics.open("rb") as file:
        assert Mark.at(file, len(content)).holds(metrics)


def test_damaged_state_is_treated_as_none(make_run):
    run: RunDirectory = make_run()
    assert TrackingState.read(run) is None
    run.tracking.write_text("{")
    assert TrackingState.read(run) is None


def test_runs_of_a_ladder_stand_under_one_run(make_run, uri, tmp_path):
    client = MlflowClient(uri)
    for name in ("small", "larger"):
        run = make_run(name=name, started=1000.0)
        settings = yaml.safe_load(run.config.read_text())
        settings["tracking"] = {"parent": "the ladder's", "tags": {"size": "0001.00M", "seed": "mine"}}
        settings["training"]["seed"] = 3
        run.config.write_text(yaml.safe_dump(settings))
        with MetricsLog(run.metrics) as log:
            train(log, 1, 2)
        run.update_summary(status="finished", ended=2000.0)
        Mirror(run, state_for(uri)).finish()
    experiment = client.get_experiment_by_name("glm-scale")
    assert experiment is not None
    found = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(found) == {"small", "larger", "the ladder's"}
    parent = found["the ladder's"].info.run_id
    assert {found[name].data.tags["mlflow.parentRunId"] for name in ("small", "larger")} == {parent}
    assert found["small"].data.tags["size"] == "0001.00M"
    assert found["small"].data.tags["seed"] == "3", "what every run has cannot be said otherwise"


def test_of_several_that_make_a_parent_at_once_the_first_one_counts(uri, monkeypatch):
    client = MlflowClient(uri)
    experiment = client.create_experiment("one")
    looked, named = [], parents._named

    def as_if_there_was_none(*arguments):
        looked.append(1)
        return [] if len(looked) in (1, 3) else named(*arguments)

    monkeypatch.setattr(parents, "_named", as_if_there_was_none)
    first = parents.find_or_create_parent(client, experiment, "ladder")
    assert parents.find_or_create_parent(client, experiment, "ladder") == first
    assert len(client.search_runs([experiment])) == 1
