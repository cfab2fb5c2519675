"""Ctrl-C while a run is handed to SLURM: the job is either not there, or known and cancelled again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glm_launch.records import LaunchFolder
from glm_scale.run_directory import RunDirectory
from tests.tiny_run import tiny_config, tiny_data, write_config

_SBATCH = """#!/bin/sh
case "$*" in
    *--test-only*|*--version*) exit 0 ;;
esac
touch "$FAKE/begun"
sleep 1
echo "$@" >> "$FAKE/submitted"
echo "Submitted batch job 7"
"""
_SCANCEL = '#!/bin/sh\necho "$@" >> "$FAKE/cancelled"\n'


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """A folder for PATH with commands that write down what they did."""
    folder = tmp_path / "fake"
    folder.mkdir()
    for name, content in {
        "sbatch": _SBATCH,
        "scancel": _SCANCEL,
        "srun": "#!/bin/sh\n",
        "squeue": "#!/bin/sh\n",
    }.items():
        (folder / name).write_text(content)
        (folder / name).chmod(0o755)
    return folder


def test_ctrl_c_leaves_no_half_submitted_job(
    fake: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = write_config(tmp_path / "tiny.yaml", tiny_config(tiny_data(tmp_path_factory), tmp_path))
    command = [sys.executable, "-m", "glm_launch.cli.app", "submit", str(config), "--tasks-per-node", "1"]
    environment = {**os.environ, "PATH": f"{fake}:{os.environ['PATH']}", "FAKE": str(fake)}
    # In a session of its own, which gets the signal as a whole, as from a terminal.
    process = subprocess.Popen(
        command, env=environment, cwd=tmp_path, start_new_session=True, stdout=subprocess.PIPE, text=True,
        # Where the tests run in the background it is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while not (fake / "begun").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 130
    assert "job 7" not in output
    assert (fake / "submitted").read_text().count("\n") == 1
    assert (fake / "cancelled").read_text() == "7\n"
    submission = LaunchFolder(RunDirectory(tmp_path / "runs" / "tiny")).submission()
    assert submission is not None
    assert submission.job == "7"
