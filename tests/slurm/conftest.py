"""One SLURM for all tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, available, cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # All items of the session come, also those of other folders.
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def _session_cluster() -> Iterator[Cluster]:
    if reason := available():
        pytest.fail(f"{reason}; `make test-slurm` installs what is missing")
    with cluster() as started:
        yield started


@pytest.fixture
def slurm(_session_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster of four idle nodes, which SLURM's commands find; the test may leave behind jobs and broken nodes."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "SBATCH_")):
            monkeypatch.delenv(name)
    for name, value in _session_cluster.environment.items():
        monkeypatch.setenv(name, value)
    yield _session_cluster
    _session_cluster.restore()
