import pytest

from tests.parallel.processes import Pool


@pytest.fixture(scope="session")
def processes():
    """Four processes over gloo, started when they are first asked for."""
    pool = Pool(4)
    yield pool
    pool.close()
