"""One rule for all commands says where a run is tracked, and no folder's name leads an sqlite file astray."""

from __future__ import annotations

import base64
import http.server
import io
import shlex
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.tracking import MlflowClient
from rich.console import Console
from sqlalchemy.engine import make_url

from glm_launch.cli.submit import tell
from glm_launch.doctor.findings import Asked
from glm_launch.doctor.tracking import ask as ask_of_doctor
from glm_launch.doctor.tracking import mlflow as doctor
from glm_launch.records import Submission
from glm_scale.cli.curves import say_where_curves_are
from glm_scale.config import ConfigError, RunConfig, check_environment, load_config, resolved_yaml
from glm_scale.errors import UserError
from glm_scale.run_directory import RunDirectory
from glm_scale.run_search import find_runs
from glm_scale.scaling.comparison import compare
from glm_scale.scaling.publish import where_to_publish
from glm_scale.scaling.report import Report
from glm_scale.tracking import TrackingConfig
from glm_scale.tracking.reach import ask
from glm_scale.tracking.state import Order, TrackingState, open_state
from glm_scale.tracking.sync import sync
from glm_scale.tracking.uris import (
    choose_uri,
    resolve_uri,
    shortest_uri,
    sqlite_path,
    with_password,
    without_password,
)
from glm_scale.tracking.where import where_tracked
from tests.surroundings.tracked_runs import make_run
from tests.tiny_run import tiny_config, tiny_data, write_config

VARIABLE = "MLFLOW_TRACKING_URI"
TEAM = "http://127.0.0.1:9"  # nobody listens there
SECRET = "correct-horse"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (folder := tmp_path / "work").mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv(VARIABLE, raising=False)
    return folder


@pytest.fixture
def team(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a team's server in the environment."""
    monkeypatch.setenv(VARIABLE, TEAM)
    return work


def config_of(folder: Path, *overrides: str, data: Path = Path("data")) -> RunConfig:
    tree = {**tiny_config(data, folder), "tracking": {"system_metrics": None}}
    return load_config(write_config(folder / "c.yaml", tree), overrides)


def tracked_at(run: RunDirectory, uri: str, requested: str | None = None) -> RunDirectory:
    """As if the run had been mirrored to `uri`, where `requested` led."""
    TrackingState(requested_uri=requested or uri, uri=uri, experiment="theirs").write(run)
    return run


def order(run: RunDirectory, uri: str | None, experiment: str = "glm-scale") -> Order:
    return Order(run=run.path, uri=uri, experiment=experiment, base=Path.cwd())


class TestRule:
    def test_what_is_told_goes_before_what_is_recorded_before_the_environment_before_the_default(
        self, team, monkeypatch
    ):
        assert choose_uri("sqlite:///told.db") == "sqlite:///told.db"
        assert choose_uri() == TEAM
        for nothing in ("", "  "):
            monkeypatch.setenv(VARIABLE, nothing)
            assert choose_uri() == "sqlite:///mlflow.db"

    def test_a_configuration_says_nothing_unless_it_is_told(self, team):
        assert TrackingConfig().uri is None
        assert yaml.safe_load(resolved_yaml(config_of(team)))["tracking"]["uri"] is None
        assert config_of(team, "tracking.uri=sqlite:///own.db").tracking.uri == "sqlite:///own.db"

    def test_train(self, team):
        run = make_run(team)
        assert open_state(run, order(run, None)).uri == TEAM
        assert open_state(run, order(run, "sqlite:///own.db")).uri == f"sqlite:///{team}/own.db"

    def test_a_run_that_goes_on_stays_where_it_is_unless_told(self, team):
        run = tracked_at(make_run(team), "http://old:5000")
        assert open_state(run, order(run, None, "theirs")).uri == "http://old:5000"
        assert open_state(run, order(run, "sqlite:///own.db", "theirs")).uri == f"sqlite:///{team}/own.db"

    def test_another_experiment_is_one_of_the_same_store(self, team):
        run = tracked_at(make_run(team), "http://old:5000")
        other = open_state(run, order(run, None, "others"))
        assert (other.uri, other.experiment, other.run_id) == ("http://old:5000", "others", None)

    def test_a_database_that_was_moved_along_is_the_one_that_is_compared_in(self, team, monkeypatch):
        run = tracked_at(make_run(team / "old"), f"sqlite:///{team}/old/m.db", requested="sqlite:///m.db")
        (team / "old/m.db").touch()
        (team / "old").rename(team / "new")
        monkeypatch.chdir(team / "new")
        moved = RunDirectory(team / "new" / run.path.relative_to(team / "old"))
        assert where_tracked(moved)[0] == f"sqlite:///{team}/new/m.db"

    def test_track_sync(self, team, caplog):
        assert sync(make_run(team, "a"), timeout=0.1) is None
        assert TEAM in caplog.text
        caplog.clear()
        assert sync(make_run(team, "b", config="tracking: {uri: 'http://127.0.0.1:19'}"), timeout=0.1) is None
        assert "http://127.0.0.1:19" in caplog.text

    def test_compare(self, team):
        report = lambda *runs: Report("c", compare(runs), None, ())  # noqa: E731
        new, old = make_run(team, "new"), tracked_at(make_run(team, "old"), "http://old:5000")
        assert where_to_publish(report(new), None) is None, "of runs that were not tracked nothing is logged"
        assert where_to_publish(report(new, old), None) == ("http://old:5000", "theirs")
        told = where_to_publish(report(new, old), "sqlite:///own.db")
        assert told == (f"sqlite:///{team}/own.db", "theirs")

    def test_ladder_and_submit_say_where(self, team, capsys):
        config = config_of(team)
        console = Console(file=(said := io.StringIO()), width=200)
        say_where_curves_are(config, console)
        submission = Submission(
            kind="local", job="1", host="h", folder=team, working_directory=team, submitted=0.0
        )  # fmt: skip
        tell([config], [submission])
        assert f"MLflow: {TEAM}\n" in said.getvalue()
        assert f"MLflow: {TEAM}\n" in capsys.readouterr().out
        tracked_at(RunDirectory(config.run_root / config.name).create(), "http://old:5000")
        say_where_curves_are(config, console)
        assert "MLflow: http://old:5000\n" in said.getvalue()

    def test_doctor(self, team, monkeypatch):
        assert doctor(Asked()).says.startswith(TEAM)
        assert f"{team}/own.db" in doctor(Asked(tracking_uri="sqlite:///own.db")).says
        monkeypatch.setenv(VARIABLE, "")
        assert f"{team}/mlflow.db" in doctor(Asked()).says

    def test_resume_stays(self, team):
        config = config_of(team)
        run = tracked_at(RunDirectory(config.run_root / config.name).create(), "http://old:5000")
        assert where_tracked(run) == ("http://old:5000", "theirs")
        assert where_tracked(run, config.tracking) == ("http://old:5000", config.tracking.experiment)


class TestEnvironment:
    @pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns", f"file://me:{SECRET}@host/x"])
    def test_what_names_no_store_is_refused_before_anything_starts(self, work, monkeypatch, uri, tmp_path_factory):
        monkeypatch.setenv(VARIABLE, uri)
        config = config_of(work, data=tiny_data(tmp_path_factory))
        with pytest.raises(ConfigError, match=VARIABLE) as told:
            check_environment(config, "c.yaml")
        assert SECRET not in str(told.value)
        with pytest.raises(UserError, match=VARIABLE):
            sync(make_run(work))
        found = doctor(Asked())
        assert (found.state, VARIABLE in found.says, SECRET in str(found)) == ("problem", True, False)
        # What is told goes before it, and so does what is recorded.
        check_environment(config_of(work, "tracking.uri=sqlite:///m.db", data=tiny_data(tmp_path_factory)), "c.yaml")
        check_environment(config_of(work, "tracking.enabled=false", data=tiny_data(tmp_path_factory)), "c.yaml")
        tracked_at(RunDirectory(config.run_root / config.name).create(), "http://old:5000")
        check_environment(config, "c.yaml")

    @pytest.mark.parametrize(
        ("uri", "written"),
        [
            (f"http://me:{SECRET}@host:5000", "http://me@host:5000"),
            (f"https://:{SECRET}@host/mlflow", "https://host/mlflow"),
            (f"postgresql://me:{SECRET}@host/db?sslmode=require", "postgresql://me@host/db?sslmode=require"),
            (f"postgresql://host/db?password={SECRET}&sslmode=require", "postgresql://host/db?sslmode=require"),
            ("http://host:5000", "http://host:5000"),
            ("sqlite:////a:b@c/m.db", "sqlite:////a:b@c/m.db"),
        ],
    )
    def test_a_password_is_used_and_never_written(self, work, monkeypatch, uri, written):
        monkeypatch.setenv(VARIABLE, uri)
        run = make_run(work)
        state = open_state(run, order(run, None))
        state.write(run)
        assert state.uri == without_password(uri) == written
        assert SECRET not in run.tracking.read_text()
        assert with_password(state.uri) == uri
        assert with_password("http://another") == "http://another"

    def test_a_server_is_sent_the_password(self, work, monkeypatch):
        with serving(200) as (server, seen):
            monkeypatch.setenv(VARIABLE, server.replace("http://", f"http://me:{SECRET}@"))
            assert ask(choose_uri(), 5.0).status == 200
            ask_of_doctor.cache_clear()
            assert doctor(Asked()).state == "ok"
        assert seen == [f"Basic {base64.b64encode(f'me:{SECRET}'.encode()).decode()}"] * 2


class serving:  # noqa: N801
    """An MLflow server of one answer: its address, and the headers of authorization that it has seen."""

    def __init__(self, status: int) -> None:
        seen: list[str | None] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seen.append(self.headers.get("Authorization"))
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server, self._seen = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler), seen

    def __enter__(self) -> tuple[str, list[str | None]]:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}", self._seen

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()


ODD = [
    "what?",
    "100%25",
    "%",
    "a#b",
    "sp ace",
    "ü",
    "qu'ote",
    'dou"ble',
    "semi;colon",
    "a&b=c",
    "at@x",
    "a:b",
    "b\\s",
    "$(x)",
]
WORST = "what? 100%25 a#b ü 'q' \"d\" ;:x=&@\\ $(y)"


class TestFolders:
    @pytest.mark.parametrize("name", [*ODD, WORST])
    def test_an_address_names_the_file_in_the_folder(self, work, monkeypatch, name):
        (folder := work / name).mkdir()
        monkeypatch.chdir(folder)
        uri = resolve_uri("sqlite:///mlflow.db")
        assert sqlite_path(uri) == folder / "mlflow.db"
        assert make_url(uri).database == str(folder / "mlflow.db"), "as SQLAlchemy reads it"
        assert resolve_uri(uri, Path("/elsewhere")) == uri
        assert shortest_uri(uri) == "sqlite:///mlflow.db"
        assert make_url(resolve_uri("sqlite:///m.db?timeout=5")).query == {"timeout": "5"}
        assert str(folder / "mlflow.db") in doctor(Asked(tracking_uri=uri)).says

    def test_everything_lies_in_the_folder_and_is_found_there(self, work, monkeypatch):
        """A new store in a folder of the worst name, made by the real process."""
        (folder := work / WORST).mkdir()
        monkeypatch.chdir(folder)
        run = make_run(folder / "runs", status="finished")
        (run.plots / "loss.png").write_bytes(b"picture")
        state = sync(run)
        assert state is not None, run.tracking_log.read_text()
        assert {path.name for path in folder.iterdir()} == {"mlflow.db", "mlruns", "runs"}
        assert {path.name for path in work.iterdir()} == {WORST}, "nothing beside it"
        assert [path.read_bytes() for path in (folder / "mlruns").rglob("loss.png")] == [b"picture"]
        where = where_to_publish(Report("c", compare(find_runs([folder / "runs"])), None, ()), None)
        assert where == (resolve_uri("sqlite:///mlflow.db"), "glm-scale")

        said = io.StringIO()
        config = config_of(folder).model_copy(update={"name": "a"})
        monkeypatch.setenv("PATH", "")
        say_where_curves_are(config, Console(file=said, width=20))
        (line,) = (line for line in said.getvalue().splitlines() if "--backend-store-uri" in line)
        for uri in (shlex.split(line)[-1], state.uri):
            client = MlflowClient(uri)
            (experiment,) = [e for e in client.search_experiments() if e.name == "glm-scale"]
            assert [r.info.run_id for r in client.search_runs([experiment.experiment_id])] == [state.run_id]
            assert state.run_id is not None
            assert {file.path for file in client.list_artifacts(state.run_id)} >= {"plots", "config.yaml"}
