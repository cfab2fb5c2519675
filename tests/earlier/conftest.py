from pathlib import Path

import pytest

from tests.earlier.archive import unpacked


@pytest.fixture(scope="session")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the archive holds, to be read."""
    return unpacked(tmp_path_factory.mktemp("earlier"))
