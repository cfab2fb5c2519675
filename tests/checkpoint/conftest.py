from pathlib import Path

import pytest

from glm_scale.checkpoint.retention import Retention
from glm_scale.checkpoint.store import CheckpointStore
from tests.checkpoint.made_up import Told


@pytest.fixture
def told() -> Told:
    """What the store tells the user."""
    return Told()


@pytest.fixture
def store(tmp_path: Path, told: Told) -> CheckpointStore:
    """An empty folder of checkpoints that keeps two."""
    return CheckpointStore(tmp_path / "checkpoints", Retention(last=2), tell=told)
