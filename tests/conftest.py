"""Settings of all tests."""

import gc
import os

# The tests' tensors are small: a second thread costs more than it brings, most of all on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from glm_scale.training.communication_op import extensions_folder
from tests.commands import Commands
from tests.forking import ForkServer
from tests.made_runs import MakeRun, maker
from tests.parallel.processes import Pool
from tests.sharing_out import ByFile
from tests.tiny_run import tiny_config, tiny_data
from tests.whole_runs import Tree

# On a busy machine the time of a single example says nothing. Examples are the same every time, and everywhere.
settings.register_profile("patient", deadline=None, derandomize="TEST_SEED" not in os.environ)
settings.load_profile("patient")

# Processes that DeepSpeed is started in by other hands than ours find what ours compile.
extensions_folder()

if not torch.cuda.is_available():
    # Without a GPU Triton's kernels run in its interpreter. It reads this when a kernel is defined.
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_xdist_make_scheduler(config, log):
    """Tests are shared out to workers file by file; but all files that run several processes go to one of them, since
    two of these at a time are slower than one after the other."""
    return ByFile(config, log)


@pytest.fixture(autouse=True)
def seeds():
    """The same random numbers every time, in any order of tests. TEST_SEED: others, to see that bounds are no luck."""
    seed = int(os.environ.get("TEST_SEED", "0"))
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A small built data set."""
    return tiny_data(tmp_path_factory)


@pytest.fixture
def tree(data: Path, tmp_path: Path) -> Tree:
    """The configuration of a run on that data which takes a second."""
    return tiny_config(data, tmp_path)


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Makes run directories as a trainer leaves them."""
    return maker(tmp_path)


@pytest.fixture(scope="session")
def processes():
    """Four processes over gloo, started when they are first asked for."""
    pool = Pool(4)
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def fork_server():
    """Forks ranks and commands; it has done the imports."""
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture
def command(fork_server, tmp_path):
    """`glm-scale`, as a process in surroundings of the test's choice."""
    return Commands(fork_server, tmp_path)


@pytest.fixture(autouse=True)
def usual_garbage_collection():
    """Commands that are called in this process let Python look for garbage less often; tests want it gone."""
    usual = gc.get_threshold()
    yield
    gc.set_threshold(*usual)
