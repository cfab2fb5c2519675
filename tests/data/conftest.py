"""Data sets that many tests read."""

from pathlib import Path

import pytest

from glm_data import Tokenizer, train_tokenizer
from tests.data.corpora import build_corpus, documents


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return documents(120)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    """A data set of several shards. Not to be changed."""
    folder = tmp_path_factory.mktemp("corpus")
    build_corpus(folder, texts, validation_fraction=0.1)
    return folder / "set"


@pytest.fixture(scope="session")
def tokenizer(texts: list[str]) -> Tokenizer:
    return train_tokenizer(texts, 512)
