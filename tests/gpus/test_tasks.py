"""Stacked models on a GPU, compiled: every structure learns what it learns on a CPU."""

import pytest
import torch

from glm_kernels import fla
from glm_scale.tasks.registry import parse_task
from glm_scale.tasks.setting import Setting
from glm_scale.tasks.training import StackedTraining
from tests.tolerances import assert_close, loss_curve

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.timeout(600),
]

STRUCTURES = (
    "attention", "local:16", "ssm", "window:8", "dense", "offsets:2^k", "lattice:2^k", "offsets:k^2+1", "lattice:k^2+1",
    "mamba2",
)  # fmt: skip
TASK = parse_task("copy:20")
SETTING = Setting(seeds=2, rates=(1e-3, 3e-3), steps=5, batch=8, sequences=20)


def losses(mixer: str, device: str) -> torch.Tensor:
    training = StackedTraining(TASK, mixer, SETTING, torch.device(device))
    return torch.stack([training.step() for _ in range(SETTING.steps)]).cpu()


# All in one process: no structure may be in the way of those that are compiled after it.
@pytest.mark.parametrize("mixer", STRUCTURES)
def test_a_structure_learns_what_it_learns_on_a_cpu(mixer):
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        assert_close(losses(mixer, "cuda"), losses(mixer, "cpu"), loss_curve(2 * (40 + 3 * 128 + 384), SETTING.steps))


@pytest.mark.parametrize("mixer", [*STRUCTURES, "gla"])
def test_models_are_asked_at_all_lengths(mixer):
    if mixer == "gla" and (reason := fla.why_not("gla")):
        pytest.skip(reason)
    training = StackedTraining(TASK, mixer, SETTING, torch.device("cuda"))
    for one in training.results(training.step()):
        assert all(0 <= share < 0.2 for share in one.accuracy)
