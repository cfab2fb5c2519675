import pytest
import torch

from glm_scale.training import distributed
from tests.training.fake_time import FakeTime


@pytest.fixture(scope="session")
def process_group(tmp_path_factory: pytest.TempPathFactory) -> None:
    """DeepSpeed's process group of one, on the CPU."""
    with distributed.quiet(tmp_path_factory.mktemp("deepspeed") / "log"):
        distributed.start(torch.device("cpu"))


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    """The time of a run's clock."""
    fake = FakeTime()
    monkeypatch.setattr("glm_scale.training.clock.time", fake)
    return fake
