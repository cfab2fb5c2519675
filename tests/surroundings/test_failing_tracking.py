"""Tracking that fails: what is wrong is said at once, in plain words, and in the end what to do; training goes on."""

from __future__ import annotations

import errno
import os
import shlex
import socket
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from glm_launch.doctor.findings import Asked
from glm_launch.doctor.tracking import mlflow as doctor
from glm_scale.run_directory import RunDirectory
from glm_scale.tracking import MetricsLog, Tracker, TrackingConfig
from glm_scale.tracking.reach import StoreError, Trouble, _revisions, check_store, explain
from glm_scale.tracking.sync import sync
from tests.commands import Commands, assert_refused, become_user, unprivileged
from tests.surroundings.test_where_runs_are_tracked import serving
from tests.surroundings.tracked_runs import make_run
from tests.tiny_run import tiny_config, tiny_data, write_config


def store_of(path: Path, version: str) -> str:
    """A database that says to be of a version of MLflow's schema."""
    with sqlite3.connect(path) as database:
        database.execute("create table alembic_version (version_num text)")
        database.execute("insert into alembic_version values (?)", (version,))
    database.close()
    return f"sqlite:///{path}"


def first_revision() -> str:
    (first,) = (name for name, follows in _revisions().items() if not follows)
    return first


def newest_revision() -> str:
    known = _revisions()
    (newest,) = set(known) - {parent for follows in known.values() for parent in follows}
    return newest


def trouble_of(uri: str) -> Trouble:
    with pytest.raises(StoreError) as told:
        check_store(uri, 5.0)
    return told.value.trouble


class TestWhatIsWrong:
    def test_schemas_are_called_what_they_are(self, tmp_path):
        uri = store_of(tmp_path / "o l d.db", first_revision())
        earlier = trouble_of(uri)
        assert "schema of an earlier version" in earlier.says
        assert f"mlflow db upgrade {shlex.quote(uri)}" in earlier.way_out
        later = trouble_of(store_of(tmp_path / "later.db", "0123456789ab"))
        assert "schema of a later version" in later.says
        assert "update MLflow" in later.way_out
        assert (earlier.passing, later.passing) == (False, False)
        check_store(store_of(tmp_path / "same.db", newest_revision()), 5.0)
        assert doctor(Asked(tracking_uri=uri)).state == "problem"

    def test_a_file_that_cannot_be_a_store(self, tmp_path):
        (tmp_path / "text.db").write_text("this is no database\n" * 100)
        assert "not a database" in trouble_of(f"sqlite:///{tmp_path}/text.db").says
        (tmp_path / "folder.db").mkdir()
        assert "is a folder" in trouble_of(f"sqlite:///{tmp_path}/folder.db").says
        assert "is a file, not a folder" in trouble_of(f"sqlite:///{tmp_path}/text.db/m.db").says
        (tmp_path / "empty.db").touch()
        check_store(f"sqlite:///{tmp_path}/empty.db", 5.0)
        check_store(f"sqlite:///{tmp_path}/new/folder/m.db", 5.0)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
    @pytest.mark.parametrize("place", ["folder", "file", "journal"])
    def test_what_may_not_be_written(self, open_folder, place):
        path = open_folder / "m.db"
        if place != "folder":
            store_of(path, newest_revision())
            path.chmod(0o644 if place == "file" else 0o666)
        open_folder.chmod(0o777 if place == "file" else 0o755)
        if place != "file":
            assert_refused(open_folder, unprivileged())
        said = _as_another_user(lambda: str(trouble_of(f"sqlite:///{path}")))
        assert "no permission to write" in said
        assert ("journal" in said) == (place == "journal")

    def test_a_full_disk(self, tmp_path, monkeypatch):
        full = os.statvfs_result((4096, 4096, 1000, 1, 1, 0, 0, 0, 0, 255))
        monkeypatch.setattr(os, "statvfs", lambda path: full)
        trouble = trouble_of(f"sqlite:///{tmp_path}/m.db")
        assert ("no space left" in trouble.says, trouble.passing) == (True, True)

    def test_servers(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            refused = trouble_of(f"http://127.0.0.1:{free.getsockname()[1]}")
        assert (refused.says, refused.passing) == ("Connection refused", True)
        assert trouble_of("postgresql://127.0.0.1:1/db").passing
        for status in (401, 403):
            with serving(status) as (uri, _):
                trouble = trouble_of(uri)
            assert (str(status) in trouble.says, trouble.passing) == (True, False)
            assert "MLFLOW_TRACKING_PASSWORD" in trouble.way_out
        with serving(503) as (uri, _):
            check_store(uri, 5.0)  # left to MLflow, which tries again

    def test_a_server_that_does_not_answer(self):
        with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(StoreError, match="no answer in time"):
            check_store(f"http://127.0.0.1:{silent.getsockname()[1]}", 0.1)

    @pytest.mark.parametrize(
        ("error", "words", "passing"),
        [
            (ModuleNotFoundError("No module named 'mlflow'", name="mlflow"), "MLflow cannot be imported here", False),
            (ModuleNotFoundError("No module named 'psycopg2'", name="psycopg2"), "MLflow needs psycopg2", False),
            (ImportError("cannot import name 'x'"), "MLflow cannot be imported here: cannot import name", False),
            (Exception("(sqlite3.OperationalError) database is locked [SQL: x]"), "database is locked", True),
            (Exception("(sqlite3.OperationalError) database or disk is full"), "disk is full", False),
            (Exception("attempt to write a readonly database"), "readonly database", False),
            (Exception("Detected out-of-date database schema (found version 00ff, but"), "schema of a later", False),
            (Exception("Can't locate revision identified by '00ff'"), "schema of a later", False),
            (Exception("API request to endpoint /x failed with error code 403 != 200"), "HTTP 403", False),
            (Exception("API request to endpoint /x failed with error code 503 != 200"), "HTTP 503", True),
            (OSError(errno.ENOSPC, "No space left on device", "/r/tracking.json"), "No space left on device", True),
            (Exception("lost http://me:hush@host/x"), "lost http://me@host/x", True),
        ],
    )
    def test_words_of_errors(self, error, words, passing):
        trouble = explain(error, "sqlite:////x.db")
        assert words in trouble.says
        assert trouble.passing == passing
        assert "hush" not in str(trouble)


def _as_another_user(work: Any) -> str:
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            become_user(unprivileged())
            os.write(writer, work().encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said


@pytest.fixture
def old_store(tmp_path: Path) -> str:
    return store_of(tmp_path / "old.db", first_revision())


class TestWhatIsSaid:
    def told(self, run: RunDirectory, uri: str) -> list[str]:
        """By a run that trains a moment, whose user is patient."""
        lines: list[str] = []
        with run.lock(), MetricsLog(run.metrics) as log:
            tracker = Tracker(TrackingConfig(uri=uri, system_metrics=None), run, log, lines.append)
            tracker.start()
            deadline = time.monotonic() + 240
            while not lines and time.monotonic() < deadline:
                time.sleep(0.01)
            assert not tracker.close("finished")
        return lines

    def test_one_line_as_soon_as_it_is_known_and_one_in_the_end(self, tmp_path, old_store):
        run = make_run(tmp_path / "it's", "run")
        first, last = self.told(run, old_store)
        assert first.startswith(
            f"MLflow at {old_store} does not take this run: the database has the schema of an earlier"
        )
        assert "schema of an earlier" in last
        assert last.endswith(f"deliver it with: glm-scale track sync {shlex.quote(str(run.path))}")

    def test_an_mlflow_that_cannot_be_imported(self, tmp_path, monkeypatch):
        broken = tmp_path / "broken"
        (broken / "mlflow").mkdir(parents=True)
        (broken / "mlflow" / "__init__.py").write_text("raise ImportError('numpy is too old')")
        monkeypatch.setenv("PYTHONPATH", f"{broken}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        first, last = self.told(make_run(tmp_path), f"sqlite:///{tmp_path}/m.db")
        assert "MLflow cannot be imported here: numpy is too old" in first
        assert "track sync" in last

    def test_a_process_that_cannot_be_started(self, tmp_path, monkeypatch):
        monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere"))
        lines: list[str] = []
        run = make_run(tmp_path)
        with run.lock(), MetricsLog(run.metrics) as log:
            tracker = Tracker(TrackingConfig(system_metrics=None), run, log, lines.append)
            tracker.start()
            tracker.close("finished")
        assert len(lines) == 1
        assert "glm-scale track sync" in lines[0]

    def test_sync_says_why_and_does_not_wait_for_what_does_not_pass(self, tmp_path, old_store, caplog):
        assert sync(make_run(tmp_path, config=f"tracking: {{uri: '{old_store}'}}"), timeout=3600) is None
        (said,) = (record.message for record in caplog.records)
        assert "mlflow db upgrade" in said


def test_a_run_says_so_at_its_start_and_end_and_trains(
    command: Commands, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, old_store: str
) -> None:
    tree = {**tiny_config(tiny_data(tmp_path_factory), tmp_path), "tracking": {"uri": old_store}}
    ran = command("train", write_config(tmp_path / "c.yaml", tree))
    assert ran.code == 0, ran.output
    lines = ran.stdout.splitlines()
    said = [line for line in lines if "schema of an earlier version" in line]
    assert 1 <= len(said) <= 2, ran.output  # one, if six steps are over before anything is known
    assert "track sync" in said[-1]
    run = RunDirectory(tmp_path / "runs" / "tiny")
    assert run.read_summary().status == "finished"
    assert said[-1] in run.log.read_text()
    assert yaml.safe_load(run.config.read_text())["tracking"]["uri"] == old_store
    again = command("track", "sync", run.path)
    assert again.code == 1, again.output
    assert "mlflow db upgrade" in " ".join(again.stderr.split())
