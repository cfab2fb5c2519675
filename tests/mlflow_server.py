"""An MLflow server that can go away and come back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from glm_scale.processes.ports import reserved_port

_LEAN = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
"""What keeps a server from starting seven processes for jobs that it is not given."""


class Server:
    """Keeps what it receives in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._reserved = reserved_port()
        self._port = self._reserved.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """It answers when this returns."""
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
        store = ["--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db", "--port", str(self._port)]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *store], stdout=log, stderr=log, cwd=self._folder, start_new_session=True,
                env=os.environ | _LEAN,
            )  # fmt: skip
        deadline = time.monotonic() + 240
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "server.log").read_text()
            assert time.monotonic() < deadline, (self._folder / "server.log").read_text()
            time.sleep(0.2)

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            return urllib.request.urlopen(f"{self.uri}/health", timeout=1).status == 200
        except OSError:
            return False
