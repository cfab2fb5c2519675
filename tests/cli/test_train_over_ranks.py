"""`glm-scale train` on several processes of one machine, started by one command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_run import tiny_config, write_config


def glm_scale(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "glm_scale.cli.app", *arguments]
    # As from a shell: nothing says that a launcher is at work.
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)


def losses(run: Path) -> list[float]:
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [record["loss"] for record in records if record["kind"] == "train"]


def test_four_processes_have_the_loss_curve_of_one(data: Path, tmp_path: Path) -> None:
    config = str(write_config(tmp_path / "tiny.yaml", tiny_config(data, tmp_path)))
    alone = glm_scale("train", config, "name=alone")
    assert alone.returncode == 0, alone.stderr
    command = ("train", config, "name=several", "parallel.tensor=2", "parallel.sequence=2", "--fresh")
    several = glm_scale(*command)
    assert several.returncode == 0, several.stderr
    assert "4 × cpu (data 1 × sequence 2 × tensor 2)" in several.stdout
    assert several.stdout.count("validation loss") == 2  # told once, not by every rank
    runs = tmp_path / "runs"
    assert losses(runs / "several") == pytest.approx(losses(runs / "alone"), rel=1e-5)
    again = glm_scale(*command)
    assert again.returncode == 2
    assert again.stderr.startswith(f"error: {runs}/several holds a run already")
    assert len(losses(runs / "several")) == 6


def test_a_layout_that_cannot_be_starts_no_process(data: Path, tmp_path: Path) -> None:
    config = str(write_config(tmp_path / "tiny.yaml", tiny_config(data, tmp_path)))
    refused = glm_scale("train", config, "parallel.tensor=3")
    assert refused.returncode == 2
    assert "'lattice:2^k' cannot split its 2 heads over 3 tensor-parallel ranks" in refused.stderr
    assert not (tmp_path / "runs").exists()
