"""Data sets that many tests read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="module")
def store() -> Iterator[Any]:
    """A server, and a file system that reaches it."""
    s3fs, server = pytest.importorskip("s3fs"), pytest.importorskip("moto.server")
    with pytest.MonkeyPatch.context() as patch:
        running = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        running.start()
        _, port = running.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        patch.setattr(s3fs.S3FileSystem, "retries", 1)
        # One that was made before reaches another server.
        s3fs.S3FileSystem.clear_instance_cache()
        yield s3fs.S3FileSystem()
        running.stop()
