"""Folders that are not there, may not be written, or have too long a name; users whom the system does not know."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from glm_scale.startup import settle_caches
from glm_scale.training.signals import StopRequest
from tests.commands import Commands
from tests.signals import handled


def test_a_home_that_can_be_written_is_left_alone(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "USER": "someone"}
    settle_caches(environment)
    assert environment == {"HOME": str(tmp_path), "USER": "someone"}


@pytest.mark.parametrize("home", ["", "/nowhere/at/all", "~", "relative"])
def test_without_a_home_caches_lie_among_temporary_files(
    home: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("glm_scale.startup._entry", lambda uid: None)
    environment = {"HOME": home} if home else {}
    settle_caches(environment)
    assert environment["USER"] == f"user-{os.getuid()}"
    assert Path(environment["HOME"]) == tmp_path / f"glm-scale-{os.getuid()}"
    assert Path(environment["HOME"]).stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_may_write_is_not_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    theirs = tmp_path / f"glm-scale-{os.getuid()}"
    theirs.mkdir()
    theirs.chmod(0o777)
    environment = {"HOME": "", "USER": "someone"}
    monkeypatch.setattr("glm_scale.startup._entry", lambda uid: None)
    settle_caches(environment)
    assert Path(environment["HOME"]) != theirs


@pytest.mark.parametrize("length", [60, 90, 150])
def test_sockets_of_data_workers_fit_whatever_the_path_of_temporary_files(tmp_path: Path, length: int) -> None:
    folder = tmp_path / "x"
    while len(str(folder)) < length:
        folder = folder / ("y" * min(50, max(1, length - len(str(folder)))))
    folder.mkdir(parents=True)
    program = (
        "from glm_data.sockets import make_socket_folder; make_socket_folder()\n"
        "from multiprocessing.connection import Listener; Listener(family='AF_UNIX').close()"
    )
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, "TMPDIR": str(folder)}, check=False)
    assert done.returncode == 0


def test_a_signal_that_was_ignored_from_the_start_stays_ignored() -> None:
    with handled(signal.SIGHUP, ignored=True), StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop


def test_the_end_of_a_terminal_is_a_request_to_stop() -> None:
    with handled(signal.SIGHUP), StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop
    assert (stop.reason, stop.exit_code) == ("SIGHUP", 85)


def test_libraries_find_their_own_files_whatever_the_locale_has(command: Commands) -> None:
    """In a process of its own: the encoding is the interpreter's, from its start."""
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    shown = command("plan", "configs/quickstart.yaml", forked=False, environment=locale)
    assert (shown.code, shown.stderr) == (0, ""), shown.output
    assert "layouts, best first" in shown.stdout
    assert shown.stdout.isascii()


def test_an_interpreter_that_ignores_its_environment_is_started_again_once() -> None:
    program = "from glm_scale.startup import prepare; prepare(); print('prepared')"
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    path = f"import sys; sys.path[:0] = {sys.path!r}; "
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", path + program],
        env={**os.environ, **locale}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("prepared\n", 0), done.stderr


def test_without_any_place_for_caches_a_process_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("glm_scale.startup._can_be_made", lambda path: False)
    (tmp_path / f"glm-scale-{os.getuid()}").mkdir(mode=0o700)
    monkeypatch.setattr("pathlib.Path.mkdir", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
    settle_caches({"HOME": str(tmp_path), "USER": "someone"})
