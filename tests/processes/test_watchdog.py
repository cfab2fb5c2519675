"""The watchdog without a launcher, as in a batch system that starts the ranks itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glm_scale.processes import HANG_EXIT_CODE, Watchdog, collective_timeout, watchdog
from glm_scale.processes.reports import hang_path, read_report
from tests.processes.test_launcher import ROOT, wait_until, without_ranks

LAUNCHED = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_rank_that_hangs_ends_with_its_report_in_file_and_stderr(tmp_path: Path) -> None:
    program = "import glm_scale.processes.watchdog as w; w._LINGER = 0.4; from tests.processes import programs; "
    finished = subprocess.run(
        [sys.executable, "-c", program + "programs.hangs_alone()"],
        cwd=tmp_path,
        env=without_ranks() | {"PYTHONPATH": str(ROOT)} | LAUNCHED,
        stderr=subprocess.PIPE,
        text=True,
        timeout=200,
    )
    assert finished.returncode == HANG_EXIT_CODE
    left = read_report(hang_path(tmp_path / "reports", 0))
    assert left is not None
    assert left.heartbeat == "step 7"
    assert left.age >= 0.2
    assert left.stack[-1].function == "be_busy_elsewhere"
    assert "rank 0 on " in finished.stderr
    assert "thread MainThread:\n" in finished.stderr
    # Rank 0 compares those who share its folder.
    assert "look at rank 1 first: rank 1 has left no report here" in finished.stderr


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[Watchdog]:
    """Watchdogs that would have ended this process."""
    found: list[Watchdog] = []
    monkeypatch.setattr(Watchdog, "_report", lambda self: found.append(self))
    for name in (watchdog.LOGS, "RANK", *watchdog._recorder_settings(Path(), 1)):
        monkeypatch.setenv(name, "")  # so that it is restored, whatever is set meanwhile
        monkeypatch.delenv(name)
    return found


def test_signs_of_life_keep_it_quiet(tmp_path: Path, reported: list[Watchdog]) -> None:
    with Watchdog(1.0, tmp_path) as quiet:
        for step in range(30):
            quiet.step(step)
            time.sleep(0.05)
        assert not reported
        wait_until(lambda: reported)


def test_nothing_happens_after_its_end(tmp_path: Path, reported: list[Watchdog]) -> None:
    with Watchdog(0.2, tmp_path) as ended:
        pass
    ended._thread.join(60)
    assert not ended._thread.is_alive()
    assert not reported


def test_collectives_wait_longer_and_leave_their_traces_with_the_reports(
    tmp_path: Path, reported: list[Watchdog]
) -> None:
    assert collective_timeout(600).total_seconds() > 600
    with Watchdog(600, tmp_path):
        assert os.environ["TORCH_FR_DUMP_TEMP_FILE"] == str(tmp_path / "nccl_trace_rank_")
        assert float(os.environ["TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC"]) > 600


def test_package_is_light() -> None:
    heavy = "import sys, glm_scale.processes; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'pydantic')))"
    assert subprocess.run([sys.executable, "-c", heavy], check=False).returncode == 0
