import os
from random import SystemRandom

import pytest

from tests.faults.report import Report
from tests.faults.runs import Runs
from tests.tiny_run import tiny_data

_REPORT = Report()


@pytest.fixture(scope="session")
def runs(fork_server, tmp_path_factory):
    return Runs(fork_server, tiny_data(tmp_path_factory), tmp_path_factory.mktemp("trials"))


@pytest.fixture(scope="session")
def report():
    """Of all trials; shown when all is done."""
    return _REPORT


@pytest.fixture(scope="session")
def soak_seed():
    """FAULTS_SEED, or another one every time."""
    return os.environ.get("FAULTS_SEED") or str(SystemRandom().randrange(10**9))


def pytest_terminal_summary(terminalreporter):
    if _REPORT.trials:
        terminalreporter.section("faults of checkpoints")
        terminalreporter.write_line(str(_REPORT))
