"""The trainer's side of tracking: starts the process that mirrors the run to MLflow, and ends it."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

from glm_scale.runs import FinalStatus, RunDirectory
from glm_scale.tracking.config import TrackingConfig
from glm_scale.tracking.metrics_log import MetricsLog
from glm_scale.tracking.state import Order
from glm_scale.tracking.system import SystemMonitor

_logger = logging.getLogger("glm_scale.tracking")


class Tracker:
    """Mirrors a run to MLflow while it trains, from a process of its own.

    What reaches MLflow is read from the run directory alone: metrics.jsonl, config.yaml (parameters), summary.json
    and version.json (tags), plots/ and samples/ (artifacts). So `start` comes when config, version and summary are
    written, and after `MetricsLog.truncate`. No call waits for MLflow, but for `close`, up to its deadline.
    """

    def __init__(self, config: TrackingConfig, run: RunDirectory, log: MetricsLog) -> None:
        self._config = config
        self._run = run
        self._worker: Worker | None = None
        self._monitor = None if config.system_metrics is None else SystemMonitor(log, config.system_metrics)

    def start(self) -> None:
        """Begin. A store that cannot be reached is a warning in the log, now or later, never an error."""
        if self._monitor is not None:
            self._monitor.start()
        if self._config.enabled:
            order = Order(
                run=self._run.path,
                uri=self._config.uri,
                experiment=self._config.experiment,
                base=Path.cwd(),
                parent=os.getpid(),
            )
            try:
                self._worker = Worker(self._run, order)
            except OSError as error:
                _logger.warning("the MLflow mirror could not be started (%s); %s", error, replay_hint(self._run))

    def close(self, status: FinalStatus, deadline: float = 15.0) -> bool:
        """Record how the run ended, in summary.json and in MLflow; whether MLflow has received everything.

        Waits at most `deadline` seconds. What is missing by then stays in the run directory, and the log says which
        command replays it.
        """
        if self._monitor is not None:
            self._monitor.stop()
            self._monitor = None
        if self._run.read_summary().status != status:
            self._run.update_summary(status=status, ended=time.time())
        if self._worker is None:
            return False
        worker, self._worker = self._worker, None
        complete = worker.stop(deadline) == 0
        if not complete:
            _logger.warning("MLflow has not received all of this run; %s", replay_hint(self._run))
        return complete


def replay_hint(run: RunDirectory) -> str:
    """How the user delivers what MLflow has missed."""
    return f"replay it with: glm-scale track sync {run.path}"


class Worker:
    """The mirroring process. Its messages go to this process's log. Raises OSError if it cannot be started."""

    def __init__(self, run: RunDirectory, order: Order) -> None:
        with run.tracking_log.open("ab") as errors:
            self._process = subprocess.Popen(
                # -P: a file that lies about in the working directory must not shadow a module.
                [sys.executable, "-P", "-m", "glm_scale.tracking.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=mlflow_environment(),
                # Ctrl-C is for the trainer, which then says how the run ended.
                start_new_session=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._say(order.model_dump_json())
        self._listener = threading.Thread(
            target=_relay, args=(self._process.stdout,), name="mlflow-messages", daemon=True
        )
        self._listener.start()

    def wait(self, timeout: float | None) -> int | None:
        """The exit code; None, and the process is ended, if it takes longer than `timeout` seconds (None: no limit)."""
        try:
            code: int | None = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            code = None
        self._listener.join(timeout=1.0)
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        return code

    def stop(self, timeout: float) -> int | None:
        """Ask it to deliver the rest and to end; then like `wait`."""
        self._say(f"stop {timeout}")
        return self.wait(timeout)

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        # If it has ended already, its exit code tells.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()


def _relay(messages: IO[str]) -> None:
    with messages:
        for line in messages:
            level, _, text = line.rstrip("\n").partition(" ")
            _logger.log(logging.getLevelNamesMapping().get(level, logging.WARNING), "%s", text)


def mlflow_environment() -> dict[str, str]:
    """The environment for a process that speaks to MLflow: soon tired of a dead server, no telemetry, no GPU.

    What the user has set in the environment stays as it is.
    """
    limits = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "OMP_NUM_THREADS": "1",
    }
    return limits | dict(os.environ) | {"CUDA_VISIBLE_DEVICES": ""}
