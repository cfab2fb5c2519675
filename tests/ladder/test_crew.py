"""Processes that train side by side: their shares of the machine, what they say, and what ends them."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from glm_scale.ladder import climb, crew, read_ladder
from glm_scale.ladder.crew import Crew, share
from glm_scale.processes import NEIGHBOURS, handled
from tests.ladder.test_members import ladder_file

PATIENCE = 120


@pytest.mark.parametrize(
    ("at_once", "ranks", "gpus", "devices", "neighbours"),
    [
        (2, 1, [], [None, None], 1),
        (3, 1, ["0", "1"], ["0", "1", "0"], 1),
        (2, 2, ["0", "1", "2", "3"], ["0,1", "2,3"], 0),
        (3, 2, ["4", "5", "7"], ["4,5", "7,4", "5,7"], 1),
        (2, 4, ["0", "1"], [None, None], 3),
    ],
)
def test_gpus_are_dealt_out_in_turn(
    monkeypatch: pytest.MonkeyPatch,
    at_once: int,
    ranks: int,
    gpus: list[str],
    devices: list[str | None],
    neighbours: int,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16))
    shares = [share(place, at_once, ranks, gpus) for place in range(at_once)]
    assert [told.get("CUDA_VISIBLE_DEVICES") for told in shares] == devices
    assert {told[NEIGHBOURS] for told in shares} == {str(neighbours)}
    assert {told["OMP_NUM_THREADS"] for told in shares} == {str(16 // (at_once * ranks))}


def test_one_that_is_alone_has_all_and_threads_that_are_asked_for_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    assert share(0, 1, 2, ["0", "1"]) == {}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert "OMP_NUM_THREADS" not in share(0, 2, 1, [])


def test_gpus_keep_the_names_that_this_process_knows_them_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert crew.gpus_here() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-8f3a")
    assert crew.gpus_here() == ["5", "GPU-8f3a"]


@pytest.mark.parametrize(
    ("code", "outcome"), [(85, "stopped"), (130, "stopped"), (-15, "stopped"), (1, "failed"), (-9, "failed")]
)
@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_run_that_was_asked_to_end_ends_the_ladder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, outcome: str, concurrency: int
) -> None:
    path = ladder_file(tmp_path, tmp_path / "data", mixers=["ssm", "attention"])
    monkeypatch.setattr(Crew, "run", lambda *_: code)
    told = {member.name: outcome for member, outcome in climb(read_ladder(path), concurrency)}
    assert told == {"tiny-ssm": outcome, "tiny-attention": outcome}


WAITS = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(85))
print(sys.argv[1], "waits", flush=True)
time.sleep(600)
"""


def waiting(crew: Crew, name: str) -> int:
    return crew.run([sys.executable, "-c", WAITS, name], {})


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("to", ["us", "one of them"])
def test_a_signal_reaches_all_and_nothing_more_is_started(capfd: pytest.CaptureFixture[str], to: str) -> None:
    said = ""

    def both_wait() -> bool:
        nonlocal said
        said += capfd.readouterr().out
        return "first waits\n" in said and "second waits\n" in said

    before = signal.getsignal(signal.SIGTERM)
    crew = Crew(2)
    with handled(crew.forward), ThreadPoolExecutor(2) as threads:
        codes = [threads.submit(waiting, crew, name) for name in ("first", "second")]
        until(both_wait)
        if to == "us":
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            next(iter(crew._living)).terminate()
        assert [code.result(PATIENCE) for code in codes] == [85, 85]
        assert threads.submit(waiting, crew, "third").result(PATIENCE) == 85
    assert "third" not in capfd.readouterr().out
    assert signal.getsignal(signal.SIGTERM) is before


def test_only_so_many_have_a_place() -> None:
    crew, pair = Crew(2), threading.Barrier(2, timeout=PATIENCE)
    here: set[int] = set()

    def others(_: int) -> set[int]:
        with crew.place() as place:
            assert place not in here
            here.add(place)
            pair.wait()
            found = set(here)
            pair.wait()
            here.remove(place)
            return found

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(others, range(16))) == [{0, 1}] * 16


def test_an_error_of_ours_ends_the_ladder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ladder_file(tmp_path, tmp_path / "data", mixers=["ssm", "attention"])
    commands = []

    def start(command: list[str], **_: object) -> None:
        commands.append(command)
        raise OSError("no more processes")

    monkeypatch.setattr("glm_scale.ladder.crew.subprocess.Popen", start)
    with pytest.raises(OSError, match="no more processes"):
        list(climb(read_ladder(path)))
    assert len(commands) == 1


def test_what_a_process_has_started_may_outlive_it(capfd: pytest.CaptureFixture[str]) -> None:
    outlived = "import subprocess; print(subprocess.Popen(['sleep', '1000']).pid)"
    assert Crew(2).run([sys.executable, "-c", outlived], {}) == 0
    os.kill(int(capfd.readouterr().out), signal.SIGKILL)
