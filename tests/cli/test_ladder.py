"""`glm-scale ladder` goes on after a run that fails."""

import subprocess
import sys
from pathlib import Path

from glm_scale.run_directory import RunDirectory
from tests.run.test_ladder import ladder_file


def test_climbs_samples_compares_and_goes_on_after_a_failure(data: Path, tmp_path: Path) -> None:
    path = ladder_file(tmp_path, data, mixers=["ssm", "attention"])
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "tiny-ssm").write_text("in the way")
    command = [sys.executable, "-m", "glm_scale.cli.app", "ladder", str(path)]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 1, first.stderr
    assert "failed: tiny-ssm" in first.stdout
    run = RunDirectory(runs / "tiny-attention")
    assert run.read_summary().status == "finished"
    assert (run.samples / "step-00000006.txt").read_text().startswith("The state of the union is")
    figures = {file.suffix for file in (runs / "tiny-comparison").iterdir()}
    assert {".html", ".png"} <= figures

    (runs / "tiny-ssm").unlink()
    before = run.metrics.stat().st_mtime_ns
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 0, second.stdout + second.stderr
    assert RunDirectory(runs / "tiny-ssm").read_summary().status == "finished"
    assert run.metrics.stat().st_mtime_ns == before, "a finished run is left alone"
