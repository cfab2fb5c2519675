"""The launcher with real processes. What it does is seen from outside: output, exit code, and who is alive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from glm_scale.processes import HANG_EXIT_CODE
from tests.signals import handled

ROOT = Path(__file__).parents[2]
Start = Callable[[str, int], subprocess.Popen[str]]
LAUNCHER = """
import sys
from pathlib import Path
from glm_scale.processes import launch
command = [sys.executable, "-m", "tests.processes.programs", sys.argv[1]]
sys.exit(launch(command, int(sys.argv[2]), logs=Path("logs"), grace=1.0))
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a launcher of a program on a number of ranks, in the test's folder; whatever remains of it is killed."""
    started: list[subprocess.Popen[str]] = []

    def run(program: str, ranks: int) -> subprocess.Popen[str]:
        with handled(signal.SIGINT), handled(signal.SIGHUP):
            process = subprocess.Popen(
                [sys.executable, "-c", LAUNCHER, program, str(ranks)],
                cwd=tmp_path,
                env=without_ranks() | {"PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def without_ranks() -> dict[str, str]:
    """The environment without what a launcher of these tests may have set."""
    names = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    return {name: value for name, value in os.environ.items() if name not in names | {"OMP_NUM_THREADS"}}


def finish(process: subprocess.Popen[str]) -> tuple[str, str, int]:
    """stdout, stderr and exit code; long before a rank that nobody ends would end by itself."""
    out, error = process.communicate(timeout=200)
    return out, error, process.returncode


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Not so if nobody has yet asked how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def pids(folder: Path, ranks: int) -> list[int]:
    """Of ranks that say they are ready."""
    files = [folder / f"ready-{rank}" for rank in range(ranks)]
    wait_until(lambda: all(file.exists() and file.read_text() for file in files))
    return [int(file.read_text()) for file in files]


def test_ranks_find_each_other_and_rank_0_has_the_terminal(start: Start, tmp_path: Path) -> None:
    out, error, code = finish(start("adds", 2))
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert (out, code) == (f"sum 2, threads {threads}\n", 0)
    assert "a remark\n" in error
    assert f"sum 2, threads {threads}" in (tmp_path / "logs/rank-1.log").read_text()
    assert not list((tmp_path / "logs").glob("*.stacks"))


def test_traceback_of_the_rank_that_failed_is_shown_and_no_other(start: Start, tmp_path: Path) -> None:
    _, error, code = finish(start("raises", 3))
    # torch sometimes aborts a process that ends without having taken leave of the others.
    title = {1: "failed with exit code 1", 128 + signal.SIGABRT: "was killed by SIGABRT"}[code]
    assert error.startswith(f"error: rank 1 {title}:\n")
    assert "ValueError: a mistake in rank 1" in error
    assert error.count("Traceback") == 1
    assert "Traceback" in (tmp_path / "logs/rank-0.log").read_text()


def test_traceback_of_rank_0_is_shown_once(start: Start) -> None:
    _, error, code = finish(start("first_raises", 2))
    assert error.startswith("error: rank 0 failed with exit code 1:\nTraceback")
    assert error.count("a mistake in rank 0") == 1 + error.count('raise ValueError("a mistake in rank 0")')
    assert error.count("Traceback") == code == 1


def test_message_for_the_user_is_shown_with_its_exit_code(start: Start) -> None:
    _, error, code = finish(start("refuses", 2))
    assert error.startswith("error: rank 1 failed with exit code 2:\nerror: vocab_size is too small\n")
    assert code == 2


def test_killed_rank_is_the_cause_and_not_the_connections_to_it(start: Start) -> None:
    _, error, code = finish(start("is_killed", 2))
    assert error.startswith("error: rank 1 was killed by SIGKILL")
    assert "Traceback" not in error
    assert code == 128 + signal.SIGKILL


def test_ranks_that_ignore_sigterm_are_killed(start: Start) -> None:
    _, error, code = finish(start("exits_and_others_ignore", 2))
    assert error.startswith("error: rank 1 failed with exit code 3\n")
    assert code == 3


def test_rank_that_skips_a_collective_is_named_and_all_stacks_are_shown(start: Start, tmp_path: Path) -> None:
    _, error, code = finish(start("skips_collective", 4))
    assert "look at rank 2 first: rank 2 has started 2 collectives in group default_pg, the others 3" in error
    assert "ranks 0, 1, 3, last sign of life step 1:" in error
    assert "rank 2, last sign of life step 1:" in error
    assert "in be_busy_elsewhere" in error
    assert "in add" in error
    assert sorted(path.name for path in (tmp_path / "logs").glob("*.hang")) == [
        f"rank-{rank}.hang" for rank in range(4)
    ]
    assert code == HANG_EXIT_CODE


def test_rank_in_another_collective_is_named_by_its_place(start: Start) -> None:
    _, error, code = finish(start("waits_elsewhere", 3))
    assert "look at rank 1 first: rank 1 stands at " in error
    assert "in waits_elsewhere, the others at " in error
    assert code == HANG_EXIT_CODE


def test_rank_that_keeps_the_interpreter_is_named_with_its_stack(start: Start) -> None:
    _, error, code = finish(start("keeps_interpreter", 2))
    assert "look at rank 1 first: rank 1 does not let go of the Python interpreter and stands at " in error
    assert "rank 1, last sign of life unknown:" in error
    assert "\n    library.pthread_mutex_lock(mutex)\n" in error
    assert "\n    time.sleep(FOR_EVER)\n" in error
    assert code == HANG_EXIT_CODE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_end_reaches_all_ranks_once_and_is_waited_for(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    launcher = start("waits_for_signals", 2)
    pids(tmp_path, 2)
    launcher.send_signal(number)
    out, error, code = finish(launcher)
    assert (out, error, code) == ("", "", 128 + number)
    assert [(tmp_path / f"signals-{rank}").read_text() for rank in range(2)] == [f"{number.name}\n"] * 2


def test_second_sigint_is_passed_on_too(start: Start, tmp_path: Path) -> None:
    launcher = start("waits_for_signals", 2)
    pids(tmp_path, 2)
    for count in (1, 2):
        launcher.send_signal(signal.SIGINT)
        files = [tmp_path / f"signals-{rank}" for rank in range(2)]
        wait_until(lambda: all(f.exists() and f.read_text() == "SIGINT\n" * count for f in files))  # noqa: B023
    assert finish(launcher)[2] == 128 + signal.SIGINT


def test_ranks_die_with_a_launcher_that_is_killed(start: Start, tmp_path: Path) -> None:
    launcher = start("waits_for_signals", 2)
    ranks = pids(tmp_path, 2)
    assert all(map(is_alive, ranks))
    launcher.kill()
    wait_until(lambda: not any(map(is_alive, ranks)))


def test_command_that_does_not_exist_leaves_nothing_behind(tmp_path: Path) -> None:
    from glm_scale.processes import launch

    with pytest.raises(FileNotFoundError):
        launch(["no-such-command"], 2, logs=tmp_path)
