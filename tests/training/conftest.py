from pathlib import Path

import pytest
import torch

from glm_scale.checkpoint.retention import Retention
from glm_scale.checkpoint.store import CheckpointStore
from glm_scale.training import distributed
from tests.checkpoint_files import Told


@pytest.fixture(scope="session")
def process_group(tmp_path_factory: pytest.TempPathFactory) -> None:
    """DeepSpeed's process group of one, on the CPU."""
    with distributed.quiet(tmp_path_factory.mktemp("deepspeed") / "log"):
        distributed.start(torch.device("cpu"))


@pytest.fixture
def told() -> Told:
    """What the store tells the user."""
    return Told()


@pytest.fixture
def store(tmp_path: Path, told: Told) -> CheckpointStore:
    """An empty folder of checkpoints that keeps two."""
    return CheckpointStore(tmp_path / "checkpoints", Retention(last=2), tell=told)
