from __future__ import annotations

from pathlib import Path

import pytest

from glm_launch.doctor import Asked


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(tmp_path, "sqlite:///" + str(tmp_path / "mlflow.db"))
