"""A trained run, and a place for the tables that the data of tasks become which do not say one."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from glm_scale.inference import LoadedModel, load_model
from glm_scale.run.train import train
from glm_scale.run_directory import RunDirectory
from tests.tiny_run import tiny_config
from tests.whole_runs import config, run_of

# With `pip install 'glm-scale[eval]'`, as `.ci/run` does it, these are tested, too.
collect_ignore = [] if find_spec("lm_eval") else ["test_harness.py", "test_in_training.py", "test_page.py"]


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "tables")


@pytest.fixture(scope="session")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run that has finished."""
    tree = tiny_config(data, tmp_path_factory.mktemp("trained"))
    train(config(tree))
    return run_of(tree)


@pytest.fixture(scope="session")
def loaded(trained: RunDirectory) -> LoadedModel:
    return load_model(trained.path)
