"""Many sources, and few files that a process may have open (`ulimit -n`)."""

import contextlib
import gc
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from glm_data import DataConfig, DataError, PackedSequences, batches
from glm_data.errors import LimitError
from glm_data.open_files import OpenFiles
from tests.commands import Commands
from tests.tiny_run import LENGTH, tiny_config, tiny_data, write_config


@pytest.fixture
def sources(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Sixty data sets: one by sixty names, each of which is a file of its own to a process."""
    data = tiny_data(tmp_path_factory)
    for number in range(60):
        (tmp_path / f"source-{number}").symlink_to(data)
    return [{"path": str(tmp_path / f"source-{number}")} for number in range(60)]


def test_a_run_on_sixty_sources_needs_few_open_files(command: Commands, tmp_path: Path, sources: list[dict]) -> None:
    config = tiny_config(Path(sources[0]["path"]), tmp_path)
    config["data"] = {"sources": sources, "sequence_length": LENGTH, "workers": 1}
    run = command(
        "train", write_config(tmp_path / "config.yaml", config), limits={resource.RLIMIT_NOFILE: 128}, seconds=240
    )
    assert run.code == 0, run.output


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_sequences_read_from_many_shards_keep_few_files_open(sources: list[dict]) -> None:
    config = DataConfig(sources=sources, sequence_length=LENGTH, workers=0)
    gc.collect()  # what other tests have left open
    before = open_files()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Less than one for each source, which make room for one another, and twice what they may keep.
    limit = before + before // 4 + 8
    assert limit < before + len(sources)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        sequences = PackedSequences(config)
        tight = [sequences[sample].tokens for sample in range(200)]
        assert open_files() <= limit
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    sequences.close()
    assert open_files() == before
    assert all(np.array_equal(sequences[sample].tokens, tokens) for sample, tokens in enumerate(tight))


@pytest.mark.parametrize("on_bad_sample", ["stop", "skip"])
def test_the_limit_is_named_and_never_taken_for_damage(sources: list[dict], on_bad_sample: str) -> None:
    config = DataConfig(sources=sources[:1], sequence_length=LENGTH, workers=0, on_bad_sample=on_bad_sample)
    sequences = PackedSequences(config)
    sequences.close()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers: list[int] = []
    # What earlier tests have left behind ends now: pytest opens files to tell of it.
    gc.collect()
    gc.disable()
    try:
        limit = 3 + max(map(int, os.listdir("/proc/self/fd")))  # noqa: PTH208
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.dup(0))
        with pytest.raises(LimitError, match=rf"Too many open files.*{limit} files.*ulimit -n"):
            next(batches(sequences, 0, 2))
        with pytest.raises(LimitError, match=r"data\.workers.*ulimit -n"):
            next(batches(sequences, 0, 2, workers=1))
        with pytest.raises(LimitError, match="ulimit -n"):
            PackedSequences(config)
    finally:
        gc.enable()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in fillers:
            os.close(descriptor)
    assert next(batches(sequences, 0, 2)).tokens.shape == (2, LENGTH)


def test_the_file_read_longest_ago_is_closed(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(3)]
    for path in paths:
        path.write_bytes(path.name.encode() * 4)
    before = open_files()
    files = OpenFiles(most=2)
    for path in (paths[0], paths[1], paths[0], paths[2]):
        assert files.read(path, 2, 1) == path.name.encode() * 2
    assert open_files() == before + 2
    for path in paths:
        path.unlink()
    assert files.read(paths[0], 9, 3) == b"0"
    with pytest.raises(OSError, match="No such file"):
        files.read(paths[1], 2, 1)
    files.close()
    assert open_files() == before


def test_a_table_that_changes_is_named(tmp_path: Path, sources: list[dict]) -> None:
    import shutil

    copy = shutil.copytree(Path(sources[0]["path"]), tmp_path / "copy")
    sequences = PackedSequences(DataConfig(sources=[{"path": copy}], sequence_length=LENGTH, workers=0))
    with (copy / "train.documents.npy").open("r+b") as file:
        file.truncate(200)
    with pytest.raises(DataError, match=r"train\.documents\.npy: ends too early"):
        [sequences[sample] for sample in range(10)]
