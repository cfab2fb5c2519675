"""The trainer's side: nothing waits for MLflow, and what happened is told truthfully in the end. Real processes."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from glm_scale.errors import UserError
from glm_scale.run_directory import RunDirectory
from glm_scale.tracking import MetricsLog, Tracker, TrackingConfig, read_metrics
from glm_scale.tracking.state import TrackingState
from glm_scale.tracking.sync import sync
from glm_scale.tracking.system import SystemMonitor
from tests.mlflow_server import Server
from tests.tracking.synthetic_training import only_run, steps_of, train


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that is not the run's."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def until(condition: Callable[[], bool], timeout: float = 120.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def received(run: RunDirectory) -> int:
    """How many bytes of the log MLflow has, by the run's own account."""
    state = TrackingState.read(run)
    return state.marks[-1].offset if state and state.marks else 0


def test_a_run_reaches_the_default_store_and_goes_on_there_from_another_folder(make_run, elsewhere, monkeypatch):
    run, config = make_run(), TrackingConfig(system_metrics=0.1)
    with run.lock(), MetricsLog(run.metrics) as log:
        tracker = Tracker(config, run, log)
        tracker.start()
        train(log, 1, 20)
        until(lambda: any(True for _ in read_metrics(run.metrics, "system")))
        assert tracker.close("failed", deadline=120.0)
    uri = f"sqlite:///{elsewhere}/mlflow.db"
    assert only_run(uri).info.status == "FAILED"
    assert run.read_summary().status == "failed"

    monkeypatch.chdir(elsewhere.parent)
    with run.lock(), MetricsLog(run.metrics) as log:
        run.update_summary(status="running", ended=None)
        log.truncate(after_step=10)
        tracker = Tracker(config, run, log)
        tracker.start()
        until(lambda: only_run(uri).info.status == "RUNNING")
        train(log, 11, 40)
        assert tracker.close("finished", deadline=120.0)
    assert not (elsewhere.parent / "mlflow.db").exists()
    assert only_run(uri).info.status == "FINISHED"
    assert {step for step, _ in steps_of(uri, "train/loss")} == set(range(1, 41))
    assert "system/process_cpu_percent" in only_run(uri).data.metrics


def test_a_server_that_never_answers_delays_nothing(make_run, elsewhere, empty_store, caplog):
    others = psutil.Process().children()
    environment = dict(os.environ)
    run = make_run()
    with socket.create_server(("127.0.0.1", 0)) as silent, run.lock(), MetricsLog(run.metrics) as log:
        config = TrackingConfig(uri=f"http://127.0.0.1:{silent.getsockname()[1]}", system_metrics=None)
        tracker = Tracker(config, run, log)
        start = time.monotonic()
        tracker.start()
        train(log, 1, 1000)
        assert time.monotonic() - start < 10  # a hanging request alone takes longer
        silent.settimeout(120)
        connection, _ = silent.accept()  # the request is under way, and will hang
        start = time.monotonic()
        assert not tracker.close("finished", deadline=1.0)
        assert time.monotonic() - start < 10
        connection.close()
    assert f"glm-scale track sync {run.path}" in caplog.text
    assert dict(os.environ) == environment
    assert run.read_summary().status == "finished"
    assert psutil.Process().children() == others

    shutil.copy(empty_store, elsewhere / "replayed.db")
    assert sync(run, uri="sqlite:///replayed.db") is not None
    uri = f"sqlite:///{elsewhere}/replayed.db"
    assert only_run(uri).info.status == "FINISHED"
    assert len(steps_of(uri, "train/loss")) == 1000


@pytest.mark.parametrize(("status", "seconds"), [("finished", 60.0), ("stopped", 15.0), ("failed", 15.0)])
def test_a_run_that_has_finished_is_in_no_hurry(make_run, monkeypatch, status, seconds):
    waited: list[float] = []

    def stop(deadline: float) -> int:
        waited.append(deadline)
        return 0

    monkeypatch.setattr("glm_scale.tracking.tracker.Worker", lambda *_: SimpleNamespace(stop=stop))
    run = make_run()
    with MetricsLog(run.metrics) as log:
        tracker = Tracker(TrackingConfig(system_metrics=None), run, log)
        tracker.start()
        assert tracker.close(status)
    assert waited == [seconds]


@pytest.mark.parametrize("uri", ["htp://localhost", "http://127.0.0.1:9"])
def test_a_uri_that_leads_nowhere_is_a_warning(make_run, elsewhere, caplog, uri):
    run = make_run()
    with caplog.at_level(logging.INFO), run.lock(), MetricsLog(run.metrics) as log:
        tracker = Tracker(TrackingConfig(uri=uri, system_metrics=None), run, log)
        tracker.start()
        train(log, 1, 3)
        until(lambda: "does not take this run" in caplog.text)
        tracker.close("finished", deadline=2.0)
    assert uri in caplog.text
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_disabled_tracking_starts_no_process_and_still_samples_the_machine(make_run, elsewhere):
    others = psutil.Process().children()
    run = make_run()
    with run.lock(), MetricsLog(run.metrics) as log:
        tracker = Tracker(TrackingConfig(enabled=False, system_metrics=0.1), run, log)
        tracker.start()
        train(log, 1, 1)
        assert psutil.Process().children() == others
        until(lambda: any(True for _ in read_metrics(run.metrics, "system")))
        tracker.close("finished")
    (sample, *_) = read_metrics(run.metrics, "system")
    assert sample.step == 1
    memory, of_process = sample.number("memory_percent"), sample.number("process_memory_gib")
    assert memory is not None
    assert of_process is not None
    assert 0 < memory < 100
    assert of_process > 0.01


def test_gpus_are_sampled_where_cuda_is_in_use(make_run, monkeypatch):
    """With a stand-in for torch: what is read from it, and that a machine without NVML's bindings still samples."""

    def utilization() -> int:
        raise ModuleNotFoundError("pynvml")

    gib = 1 << 30
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        mem_get_info=lambda: (60 * gib, 80 * gib),
        memory_allocated=lambda: 12 * gib,
        max_memory_allocated=lambda: 16 * gib,
        utilization=utilization,
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    with MetricsLog(make_run().metrics) as log:
        monitor = SystemMonitor(log, interval=1.0)
        gpu = {name: value for name, value in monitor.sample().items() if name.startswith("gpu")}
        assert gpu == {"gpu_memory_used_gib": 20, "gpu_memory_allocated_gib": 12, "gpu_memory_peak_gib": 16}
        cuda.utilization = lambda: 97
        assert monitor.sample()["gpu_percent"] == 97
        cuda.is_initialized = lambda: False
        assert not any(name.startswith("gpu") for name in monitor.sample())


TRAINER = """
import sys, time
sys.path.insert(0, sys.argv[2])
from glm_scale.run_directory import RunDirectory
from glm_scale.tracking import MetricsLog, Tracker, TrackingConfig
from tests.tracking.synthetic_training import train
run = RunDirectory(sys.argv[1])
lock, log = run.lock(), MetricsLog(run.metrics)
Tracker(TrackingConfig(system_metrics=None), run, log).start()
train(log, 1, 30)
print("trained", flush=True)
time.sleep(60)
"""


def trainer_in(run: RunDirectory) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINER, run.path, Path(__file__).parents[2]], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "trained\n"
    return process


def test_a_killed_trainer_is_reported_as_killed(make_run, elsewhere, empty_store):
    run = make_run()
    shutil.copy(empty_store, elsewhere)
    trainer = trainer_in(run)
    until(run.tracking.exists)
    (mirror,) = psutil.Process(trainer.pid).children()
    mirror.send_signal(signal.SIGTERM)  # a scheduler signals all processes of a job
    trainer.send_signal(signal.SIGKILL)
    trainer.wait()
    until(lambda: run.read_summary().status == "killed")
    uri = f"sqlite:///{elsewhere}/mlflow.db"
    until(lambda: only_run(uri).info.status == "KILLED")
    assert len(steps_of(uri, "train/loss")) == 30


def test_sync_finds_that_a_run_was_killed_with_all_its_processes(make_run, elsewhere, empty_store):
    run = make_run()
    shutil.copy(empty_store, elsewhere)
    trainer = trainer_in(run)
    family = [*psutil.Process(trainer.pid).children(recursive=True), trainer]
    until(run.tracking.exists)
    for process in family:
        process.send_signal(signal.SIGKILL)
    trainer.wait()
    assert run.read_summary().status == "running"

    state = sync(run)
    assert state is not None
    assert run.read_summary().status == "killed"
    uri = f"sqlite:///{elsewhere}/mlflow.db"
    assert state.uri == uri
    assert only_run(uri).info.status == "KILLED"
    assert len(steps_of(uri, "train/loss")) == 30


def test_sync_refuses_what_cannot_work(make_run, elsewhere, caplog):
    run = make_run(status="finished")
    with pytest.raises(UserError, match=r"sqlite:///mlflow\.db"):
        sync(run, uri="file:///tmp/mlruns")
    with run.tracking_lock():
        assert sync(run) is None
    assert f"process {os.getpid()} on" in caplog.text


def test_a_server_that_dies_and_comes_back_receives_everything(make_run, elsewhere, empty_store, caplog, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # what the user sets holds for the mirror
    run = make_run()
    shutil.copy(empty_store, elsewhere / "mlflow.db")
    server = Server(elsewhere)
    server.start()
    try:
        with caplog.at_level(logging.INFO), run.lock(), MetricsLog(run.metrics) as log:
            tracker = Tracker(TrackingConfig(uri=server.uri, system_metrics=None), run, log)
            tracker.start()
            train(log, 1, 100)
            log.append("train", step=101, tokens=1, flops=1, loss=float("nan"), grad_norm=float("inf"))
            until(lambda: received(run) == run.metrics.stat().st_size, timeout=120)
            server.stop()
            start = time.monotonic()
            train(log, 102, 300)
            assert time.monotonic() - start < 5
            until(lambda: "does not take this run" in caplog.text.split("Traceback")[-1])
            server.start()
            until(lambda: received(run) == run.metrics.stat().st_size, timeout=120)
            assert "answers again" in caplog.text
            assert tracker.close("finished", deadline=120)
        assert only_run(server.uri).info.status == "FINISHED"
        assert sorted({step for step, _ in steps_of(server.uri, "train/loss")}) == list(range(1, 301))
        assert len(steps_of(server.uri, "train/loss")) == 300
    finally:
        server.stop()
