"""A job that waits does not notice that glm-scale is updated meanwhile, and the update knows its run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from glm_launch.snapshot import PACKAGES
from tests.slurm.cluster import Cluster
from tests.slurm.lab import Lab, losses
from tests.tiny_run import tiny_data

REPOSITORY = Path(__file__).parents[2]
FOLDERS = ("", "kernels", "launch", "data_pipeline")
STEPS = 6


def copy_of_the_code(source: Path, target: Path) -> Path:
    """The packages of a checkout, as if they were installed in `target`."""
    for folder in FOLDERS:
        for package in PACKAGES:
            if (source / folder / package).is_dir():
                shutil.copytree(source / folder / package, target / package)
    return target


@pytest.mark.timeout(600)
def test_a_job_that_waits_bears_an_update(
    slurm: Cluster, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    # EARLIER_CHECKOUT: the job is of the version there.
    installed = copy_of_the_code(Path(os.environ.get("EARLIER_CHECKOUT", REPOSITORY)), tmp_path / "installed")
    lab = Lab(slurm, tmp_path / "lab", tiny_data(tmp_path_factory))
    config = lab.config("waiting", STEPS)
    config.write_text(config.read_text().replace("sequences:", "rows:"))  # as every version can read it
    everything = ["--exclusive", f"--nodes={len(slurm.nodes)}", "--output=/dev/null", "--wrap", "sleep 600"]
    before = slurm.run("sbatch", "--parsable", *everything).stdout.strip()
    slurm.wait_for_state(before, "RUNNING")
    options = ["--time", "30", "--tasks-per-node", "2", "--gpus-per-node", "2"]
    subprocess.run(
        [sys.executable, "-m", "glm_launch.cli.app", "submit", config.name, *options],
        cwd=lab.folder,
        env={**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"},
        check=True,
    )
    launch = lab.launch("waiting")
    assert lab.state(launch).state.startswith("queued")
    for package in PACKAGES:
        shutil.rmtree(installed / package)
    slurm.run("scancel", before)
    lab.wait_for_state(launch, "finished")
    assert set(losses(launch.run)) == set(range(1, STEPS + 1))
