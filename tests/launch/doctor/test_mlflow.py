"""What doctor says of MLflow's server or database, and of its clock."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from glm_launch.doctor import Asked
from glm_launch.doctor.clock import clock_of_mlflow
from glm_launch.doctor.tracking import ask, mlflow

_SILENCE = 30.0
"""Seconds that a server may take for an answer, and for which one is silent that does not answer."""
SECRET = "hunter2"


class Server(HTTPServer):
    """Answers like MLflow, with the status that is set; `clock` seconds ahead. Silent while `may_answer` is not set."""

    status, clock = 200, 0.0
    seen: str | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.may_answer = threading.Event()
        self.may_answer.set()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if not self.server.may_answer.is_set():
            self.server.may_answer.wait(_SILENCE)
            return
        self.server.seen = self.headers["Authorization"]
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b"{}")

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(time.time() + self.server.clock)

    def log_message(self, *arguments: object) -> None:
        pass


class TestMLflow:
    @pytest.fixture
    def server(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
        for name in [name for name in os.environ if name.startswith("MLFLOW_") or name.lower().endswith("_proxy")]:
            monkeypatch.delenv(name)
        ask.cache_clear()
        server = Server()
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()
        server.server_close()

    def asked_of(self, server: Server, patience: float = _SILENCE) -> Asked:
        return Asked(tracking_uri=f"http://127.0.0.1:{server.server_port}", patience=patience)

    def test_a_server_that_answers_is_ok(self, server: Server) -> None:
        assert mlflow(self.asked_of(server)).state == "ok"
        assert clock_of_mlflow(self.asked_of(server)).state == "ok"

    @pytest.mark.parametrize(("clock", "state"), [(20.0, "warning"), (-3600.0, "problem")])
    def test_its_clock_is_compared(self, server: Server, clock: float, state: str) -> None:
        server.clock = clock
        found = clock_of_mlflow(self.asked_of(server))
        assert found.state == state
        assert ("ahead" if clock > 0 else "behind") in found.says

    def test_the_password_is_used_and_never_told(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
        server.status = 401
        found = mlflow(self.asked_of(server))
        assert server.seen is not None
        assert server.seen.startswith("Basic ")
        assert found.state == "problem"
        assert "MLFLOW_TRACKING_PASSWORD" in found.way_out
        assert SECRET not in str(found)

    def test_nobody_there(self, server: Server) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            found = mlflow(Asked(tracking_uri=f"http://127.0.0.1:{free.getsockname()[1]}/?token={SECRET}"))
        assert found.state == "problem"
        assert "refused" in found.says
        assert SECRET not in str(found)

    def test_a_server_that_does_not_answer_is_given_up(self, server: Server) -> None:
        server.may_answer.clear()
        before = time.monotonic()
        asked = self.asked_of(server, patience=0.1)
        assert mlflow(asked).state == "problem"
        assert clock_of_mlflow(asked).state == "not applicable"
        assert time.monotonic() - before < _SILENCE
        server.may_answer.set()

    @pytest.mark.parametrize(
        "uri", [f"http://me:{SECRET}@example.org", f"file://me:{SECRET}@example.org/x", "runs/mlruns"]
    )
    def test_what_cannot_be_used_is_a_problem(self, uri: str) -> None:
        found = mlflow(Asked(tracking_uri=uri))
        assert found.state == "problem"
        assert SECRET not in str(found)

    def test_a_database_is_asked_for_its_port(self, server: Server) -> None:
        host = f"127.0.0.1:{server.server_port}"
        assert mlflow(Asked(tracking_uri=f"postgresql+psycopg2://me@{host}/db?password={SECRET}")).state == "ok"
        assert mlflow(Asked(tracking_uri="postgresql://127.0.0.1:1/db")).state == "problem"

    def test_a_file_that_is_no_database_is_a_problem(self, asked: Asked) -> None:
        assert mlflow(asked).state == "ok"
        (asked.folder / "mlflow.db").write_text("this is no database\n" * 100)
        assert mlflow(asked).state == "problem"
