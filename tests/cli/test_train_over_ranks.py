"""`glm-scale train` on several processes of one machine, started by one command."""

from pathlib import Path

import pytest

from glm_scale.tracking.breakdown import Breakdown
from tests.commands import Commands
from tests.earlier.curves import losses_of
from tests.tiny_run import SAME_LOSSES, glm_scale, tiny_config, write_config


def test_four_processes_have_the_loss_curve_of_one(data: Path, tmp_path: Path, command: Commands) -> None:
    config = str(write_config(tmp_path / "tiny.yaml", tiny_config(data, tmp_path)))
    alone = command("train", config, "name=alone")
    assert alone.code == 0, alone.output
    several_ranks = ("train", config, "name=several", "parallel.tensor=2", "parallel.sequence=2", "--fresh")
    several = glm_scale(*several_ranks)
    assert several.returncode == 0, several.stderr
    assert "4 × cpu (data 1 × sequence 2 × tensor 2)" in several.stdout
    assert several.stdout.count("validation loss") == 2  # told once, not by every rank
    runs = tmp_path / "runs"
    assert losses_of(runs / "several") == pytest.approx(losses_of(runs / "alone"), rel=SAME_LOSSES)
    one, other = (Breakdown.read(runs / name / "breakdown.json", step=6) for name in ("alone", "several"))
    assert one is not None
    assert other is not None
    assert other.is_of_same_tokens(one)
    assert other.values() == pytest.approx(one.values(), rel=SAME_LOSSES)
    again = glm_scale(*several_ranks, "parallel.tensor=1", "training.tokens=128")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count(f"the run that was in {runs}/several is now in {runs}/several.1") == 1
    assert (len(losses_of(runs / "several.1")), len(losses_of(runs / "several"))) == (6, 1)


def test_a_layout_that_cannot_be_starts_no_process(data: Path, tmp_path: Path, command: Commands) -> None:
    refused = command("train", write_config(tmp_path / "tiny.yaml", tiny_config(data, tmp_path)), "parallel.tensor=3")
    assert refused.code == 2
    assert "'lattice:2^k' cannot split its 2 heads over 3 tensor-parallel ranks" in refused.stderr
    assert not (tmp_path / "runs").exists()
