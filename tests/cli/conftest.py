from pathlib import Path

import pytest

from tests.tiny_run import tiny_data


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small built data set."""
    return tiny_data(tmp_path_factory)
