"""`glm-scale ladder submit` and what it hands to SLURM."""

from pathlib import Path

import pytest
import yaml

from glm_launch.records import LaunchFolder
from glm_scale.run_directory import RunDirectory
from tests.launch.conftest import Command, Place
from tests.launch.fake_slurm import FakeSlurm
from tests.launch.test_submit import SMALL, options_of

LADDER = {"mixers": ["attention", "window:4"], "sizes": [6e3], "tokens_per_parameter": [2, 4, 8], "seeds": [0]}


@pytest.fixture
def file(place: Place) -> str:
    path = place.folder / "tiny.yaml"
    tree = yaml.safe_load(path.read_text())
    tree["model"] = {"vocab_size": tree["model"]["vocab_size"]}
    tree["training"] = {"device": "cpu", "batch_tokens": tree["training"]["batch_tokens"], "micro_batch": 1}
    path.write_text(yaml.safe_dump({**tree, "ladder": LADDER}))
    return path.name


def folder_of(place: Place, mixer: str, ratio: str) -> LaunchFolder:
    return LaunchFolder(RunDirectory(place.folder / "runs" / f"tiny-0000.01M-{mixer}-{ratio}t-s0"))


def test_a_family_of_runs_is_a_job_of_one_array(slurm: FakeSlurm, place: Place, glm: Command, file: str) -> None:
    code, told = glm("ladder", "submit", file, *SMALL, "--dry-run")
    assert code == 0, told
    assert "--array=0-1%2" in options_of(told)
    code, told = glm("ladder", "submit", file, *SMALL)
    assert code == 0, told
    assert "tiny-0000.01M-attention-008.0t-s0" in told
    for mixer in ("attention", "window-4"):
        assert folder_of(place, mixer, "008.0").submission() is not None
        for ratio in ("004.0", "002.0"):
            branch = folder_of(place, mixer, ratio)
            assert branch.submission() is None
            snapshot = yaml.safe_load(Path(branch.config).read_text())
            assert snapshot["branch"]["run"] == f"tiny-0000.01M-{mixer}-008.0t-s0"
