"""The trainer's side of tracking: starts the process that mirrors the run to MLflow, and ends it."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from glm_scale.run_directory import FinalStatus, RunDirectory
from glm_scale.tracking.config import TrackingConfig
from glm_scale.tracking.metrics_log import MetricsLog
from glm_scale.tracking.state import MISSED, Order
from glm_scale.tracking.system import SystemMonitor

_logger = logging.getLogger("glm_scale.tracking")
_SILENCE = 2.0
"""Seconds that a user waits for MLflow without being told."""
_PATIENCE_FINISHED, _PATIENCE = 60.0, 15.0
"""Seconds that a run waits in the end. A run that is stopped may soon be killed; one that has finished may have sent
nothing yet if it was short, since MLflow is slow to be imported from shared file systems."""


class Tracker:
    """Mirrors a run to MLflow while it trains, from a process of its own.

    What reaches MLflow is read from the run directory alone: metrics.jsonl, config.yaml (parameters), summary.json
    and version.json (tags), plots/ and samples/ (artifacts). So `start` comes when config, version and summary are
    written, and after `MetricsLog.truncate`. No call waits for MLflow, but for `close`, up to its deadline.

    `tell` gets what the user has to know, one line each: a store that does not take the run, as soon as that is known,
    and in the end what is to be done if not everything has arrived. By default these are warnings in the log.
    """

    def __init__(
        self, config: TrackingConfig, run: RunDirectory, log: MetricsLog, tell: Callable[[str], None] = _logger.warning
    ) -> None:
        self._config = config
        self._run = run
        self._tell = tell
        self._worker: Worker | None = None
        self._monitor = None if config.system_metrics is None else SystemMonitor(log, config.system_metrics)

    def start(self) -> None:
        """Begin. A store that cannot be reached is told, now or later, and is never an error."""
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
                self._worker = Worker(self._run, order, self._tell)
            except OSError as error:
                self._tell(f"the process that speaks to MLflow cannot be started ({error}); {replay_hint(self._run)}")

    def close(self, status: FinalStatus, deadline: float | None = None) -> bool:
        """Record how the run ended, in summary.json and in MLflow; whether MLflow has received everything.

        Waits at most `deadline` seconds, by default a minute for a run that has finished and 15 s for one that has not.
        What is missing by then stays in the run directory, and the user is told which command delivers it.
        """
        if deadline is None:
            deadline = _PATIENCE_FINISHED if status == "finished" else _PATIENCE
        if self._monitor is not None:
            self._monitor.stop()
            self._monitor = None
        if self._run.read_summary().status != status:
            self._run.update_summary(status=status, ended=time.time())
        if self._worker is None:
            return False
        worker, self._worker = self._worker, None
        if (code := worker.stop(deadline)) == 0:
            return True
        silent = f"no answer within {deadline:.0f} s" if code is None else f"see {self._run.tracking_log}"
        self._tell(f"MLflow has not received all of this run ({worker.missed or silent}); {replay_hint(self._run)}")
        return False


def replay_hint(run: RunDirectory) -> str:
    """How the user delivers what MLflow has missed."""
    return f"deliver it with: glm-scale track sync {shlex.quote(str(run.path))}"


class Worker:
    """The mirroring process. Raises OSError if it cannot be started.

    What the user has to know goes to `tell`, its other messages to this process's log. `missed`: why not everything has
    been received, once it has ended.
    """

    def __init__(self, run: RunDirectory, order: Order, tell: Callable[[str], None]) -> None:
        self.missed = ""
        self._tell = tell
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
            target=self._relay, args=(self._process.stdout,), name="mlflow-messages", daemon=True
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
        silence = min(timeout, _SILENCE)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(silence)
        if self._process.returncode is None and timeout > silence:
            self._tell(f"waiting up to {timeout:.0f} s for MLflow to receive the rest")
        return self.wait(timeout - silence)

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        # If it has ended already, its exit code tells.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def _relay(self, messages: IO[str]) -> None:
        with messages:
            for line in messages:
                word, _, text = line.rstrip("\n").partition(" ")
                level = logging.getLevelNamesMapping().get(word, logging.WARNING)
                if word == MISSED:
                    self.missed = text
                elif level >= logging.ERROR:
                    self._tell(text)
                else:
                    _logger.log(level, "%s", text)


def mlflow_environment() -> dict[str, str]:
    """The environment for a process that speaks to MLflow: soon tired of a dead server, no telemetry, no GPU.

    What the user has set in the environment stays as it is.
    """
    limits = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "OMP_NUM_THREADS": "1",
    }
    return limits | dict(os.environ) | {"CUDA_VISIBLE_DEVICES": ""}
