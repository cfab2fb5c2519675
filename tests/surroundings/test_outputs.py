"""Output is never worth a run: a reader that goes away, a full disk, a closed stream, letters it does not know."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from glm_launch.following import follow_files
from glm_launch.records import LaunchFolder
from glm_scale.cli.data import _interruptible
from glm_scale.output import _Stream, failure_of
from glm_scale.processes.relay import Relay
from glm_scale.run_directory import RunDirectory
from glm_scale.training.progress import StepView, describe
from tests.commands import Commands
from tests.signals import handled
from tests.tiny_run import tiny_config, tiny_data, write_config


@pytest.fixture
def config(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path / "tiny.yaml", tiny_config(tiny_data(tmp_path_factory), tmp_path))


@pytest.fixture
def unread():
    """The end of a pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def is_finished(tmp_path: Path) -> bool:
    return json.loads((tmp_path / "runs/tiny/summary.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("streams", ["unread", "full", "closed"])
def test_training_goes_on_without_output(
    command: Commands, config: Path, tmp_path: Path, streams: str, request: pytest.FixtureRequest
) -> None:
    stream = streams if streams in ("full", "closed") else request.getfixturevalue(streams)
    trained = command("train", config, stdout=stream, stderr=stream)
    assert trained.code == 0, trained.output
    assert is_finished(tmp_path)
    log = (tmp_path / "runs/tiny/train.log").read_text()
    assert log.count("stdout is lost") == (streams != "closed"), log
    assert "Traceback" not in log


def test_descriptors_that_are_closed_are_given_to_no_file() -> None:
    """The next file to be opened would get what libraries print."""
    program = (
        "import os; from glm_scale.output import prepare_output; prepare_output()\n"
        "assert [os.path.realpath(f'/proc/self/fd/{number}') for number in range(3)] == ['/dev/null'] * 3\n"
        "assert os.open('/dev/zero', os.O_RDONLY) > 2\n"
        "print('nobody hears this')"
    )
    done = subprocess.run([sys.executable, "-c", program], preexec_fn=lambda: os.closerange(0, 3), check=False)
    assert done.returncode == 0


def test_a_run_says_in_its_last_lines_where_it_is_and_what_to_do(
    command: Commands, config: Path, tmp_path: Path
) -> None:
    """Also where there is no terminal; and nothing of what libraries find worth a warning."""
    trained = command("train", config, "data.workers=5")
    assert trained.code == 0, trained.output
    run = tmp_path / "runs/tiny"
    assert trained.stdout.splitlines()[-2:] == [
        f"tiny is finished ({run})",
        f"next: glm-scale generate {run}, glm-scale compare {run.parent}",
    ]
    assert trained.stderr == ""
    for remark in ("untested", "DataLoader", "Warning"):
        assert remark not in trained.stdout


def test_the_end_of_a_run_is_estimated_once_there_is_something_to_go_by() -> None:
    view = StepView(step=1, steps=9, loss=1.0, tokens_per_second=10.0, mfu=None, eta=None)
    assert describe(view) == "step 1/9  loss 1.0000  10 tokens/s  eta –"


def test_stderr_of_rank_0_is_read_to_its_end_though_it_can_be_shown_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    reader, writer = os.pipe()
    with os.fdopen(writer, "wb", buffering=0) as rank, monkeypatch.context() as patch:
        patch.setattr("glm_scale.processes.relay.os.write", full)
        relay = Relay(reader, tmp_path / "rank-0.log")
        for _ in range(40):
            rank.write(b"a word of a library " * 400)
        rank.close()
        relay.join(120)
    assert not relay.is_alive()
    assert (tmp_path / "rank-0.log").stat().st_size == 40 * 8000


def test_following_a_log_ends_when_nobody_reads_on(
    tmp_path: Path, unread: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glm_launch.following.works", lambda folder: True)
    monkeypatch.setattr("sys.stdout", _Stream(unread, "utf-8", "strict", line_buffering=False))
    (log := tmp_path / "train.log").write_text("a line\n")
    follow_files(LaunchFolder(RunDirectory(tmp_path)), lambda: [log], {})
    assert failure_of(sys.stdout).errno == errno.EPIPE  # type: ignore[union-attr]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_build_that_is_told_to_end_says_that_nothing_is_lost(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    with handled(number), pytest.raises(typer.Exit) as end, _interruptible():
        signal.raise_signal(number)
    assert end.value.exit_code == 128 + number
    assert "The same command continues where it stopped." in capsys.readouterr().err


def test_a_command_whose_output_is_all_ends_as_other_tools_do(command: Commands, config: Path, unread: int) -> None:
    whole = command("config", config)
    assert (whole.code, whole.stderr) == (0, ""), whole.output
    gone = command("config", config, stdout=unread)
    assert (gone.code, gone.stderr) == (141, ""), gone.output
    full = command("config", config, stdout="full")
    assert full.code == 1
    assert full.stderr == "error: not all of the output could be written to stdout: No space left on device\n"
    nowhere = command("config", config, stdout="full", stderr="full")
    assert nowhere.code == 1
    shown = command("patterns", "window:4", stdout=unread)
    assert (shown.code, shown.stderr) == (141, ""), shown.output


def test_a_mistake_is_told_by_the_exit_code_where_nobody_hears_it(command: Commands, unread: int) -> None:
    assert command("config", "nowhere.yaml", stderr="full").code == 2
    assert command("config", "nowhere.yaml", stdout=unread, stderr=unread).code == 2


@pytest.mark.parametrize("streams", ["full", "unread", "closed"])
def test_a_data_set_is_built_though_nobody_reads(
    command: Commands, tmp_path: Path, streams: str, request: pytest.FixtureRequest
) -> None:
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 6))) for _ in range(60)]
    texts = [" ".join(draw.choices(words, k=draw.randint(3, 60))) for _ in range(120)]
    (tmp_path / "text.txt").write_text("\n\n".join(texts))
    stream = request.getfixturevalue(streams) if streams == "unread" else streams
    arguments = ("data", "build", "-i", tmp_path / "text.txt", "-o", tmp_path / "data", "--vocab-size", "300")
    more = ("--workers", "1", "--document-separator", "")
    built = command(*arguments, *more, stdout=stream, stderr=stream)
    assert built.code == 0, built.output
    assert (tmp_path / "data/index.json").exists()


def test_letters_that_a_stream_does_not_know_are_replaced(command: Commands, config: Path, tmp_path: Path) -> None:
    root, escaped = f"run_root={tmp_path}/тест→é", r"\u0442\u0435\u0441\u0442"
    trained = command("train", config, root, environment={"PYTHONIOENCODING": "ascii:strict"})
    assert trained.code == 0, trained.output
    (last,) = (line for line in trained.stdout.splitlines() if "is finished" in line)
    assert escaped in last
    run = tmp_path / "тест→é/tiny"
    for encoding in ("latin-1", "ascii:strict"):
        environment = {"PYTHONIOENCODING": encoding}
        compared = command("compare", run, "--no-tracking", environment=environment)
        assert compared.code == 0, compared.output
        written = command("generate", run, "--prompt", "é→", "--tokens", "3", environment=environment)
        assert written.code == 0, written.output
        again = command("train", config, root, environment=environment)  # it is finished
        assert escaped in again.stdout + again.stderr, again.output
        assert command("status", run, environment=environment).code == 0


def test_a_reader_that_does_not_read_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    stream = _Stream(writer, "ascii", "strict", line_buffering=True)
    waited: list[float] = []

    def select(readers: object, writers: object, others: object, seconds: float) -> tuple[list[int], ...]:
        waited.append(seconds)
        return [], [], []

    monkeypatch.setattr("glm_scale.output.select.select", select)
    for _ in range(40):
        print("x" * 8000, file=stream)
    os.close(reader)
    os.close(writer)
    assert waited[0] > 0
    assert len(waited) > 2
    assert set(waited[1:]) == {0}


def test_a_terminal_that_went_away_takes_everything() -> None:
    master, slave = os.openpty()
    os.close(master)
    stream = _Stream(slave, "ascii", "strict", line_buffering=True)
    print("→ nobody", file=stream)
    failure = failure_of(stream)
    os.close(slave)
    assert failure is not None
    assert failure.errno == errno.EIO
