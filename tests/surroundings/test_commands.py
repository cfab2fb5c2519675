"""The surroundings of tests are what they say they are."""

import os
import signal
from pathlib import Path

import pytest

from tests.commands import STRANGER, assert_refused, unprivileged


def test_a_command_is_that_of_the_shell(command):
    shown = command("config", "--help")
    assert (shown.code, shown.stderr) == (0, ""), shown.output
    assert "Usage: glm-scale config" in shown.stdout
    wrong = command("config", "nowhere.yaml")
    assert wrong.code == 2, wrong.output
    assert wrong.stderr.startswith("error: ")


@pytest.mark.parametrize("forked", [True, False])
def test_a_stream_can_be_full_closed_or_a_pipe(command, forked):
    assert command("--help", forked=forked, stdout="full").code != 0
    assert command("--help", forked=forked, stdout="closed").code == 0
    reader, writer = os.pipe()
    assert command("--help", forked=forked, stdout=writer).code == 0
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert b"Usage: glm-scale" in pipe.read()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_refused_what_root_is_not(command, tmp_path):
    tmp_path.chmod(0o755)
    assert_refused(tmp_path, unprivileged())
    with pytest.raises(AssertionError, match="no place where writing is refused"):
        assert_refused(tmp_path, None)
    assert command("--help", user=STRANGER).code == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up what makes it root")
@pytest.mark.parametrize("forked", [True, False])
def test_root_can_be_bound_by_the_modes_of_files(command, tmp_path, forked):
    (config := tmp_path / "config.yaml").write_text("{")
    config.chmod(0)
    assert "is not valid YAML" in command("config", config, forked=forked).stderr
    assert "is not readable" in command("config", config, powers="none", forked=forked).stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("forked", [True, False])
def test_a_stranger_finds_python_and_may_write_nothing_of_others(command, forked):
    assert "torch" in command("--version", user=STRANGER, powers="reads", forked=forked).stdout
    assert_refused(Path(__file__).parent, STRANGER)


def test_a_command_that_runs_can_be_sent_signals(command, tmp_path):
    (fifo := tmp_path / "config.yaml").touch()
    fifo.unlink()
    os.mkfifo(fifo)
    with command.start("config", fifo) as waiting:
        waiting.send(signal.SIGTERM)
        assert waiting.wait() == -signal.SIGTERM, waiting.output
