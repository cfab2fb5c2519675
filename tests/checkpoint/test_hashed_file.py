"""Files written directly, or through the page cache where that is refused: the bytes and what identifies them."""

import errno
import os
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from glm_scale.checkpoint import hashed_file
from glm_scale.checkpoint.files import FileRecord
from glm_scale.checkpoint.hashed_file import HashedFile

BLOCK = hashed_file._BLOCK_BYTES
PARTS = {
    "empty": [],
    "empty part": [0],
    "odd end": [5],
    "a block": [BLOCK],
    "across blocks": [1, BLOCK, 3, 2 * BLOCK + 7, BLOCK - 11],
}


def parts_of(sizes: list[int]) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.integers(0, 256, size, dtype=np.uint8) for size in sizes]


def write(path: Path, parts: list[np.ndarray]) -> FileRecord:
    with HashedFile(path) as file:
        for part in parts:
            file.write(part)
            part[:] = 0  # what was written must not change with the memory that it came from
        record = file.finish()
        file.sync()
    return record


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("sizes", PARTS.values(), ids=PARTS)
def test_what_is_written_is_there_and_is_what_was_hashed(
    tmp_path: Path, sizes: list[int], direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not direct:
        refuse_direct(monkeypatch)
    parts = parts_of(sizes)
    due = b"".join(part.tobytes() for part in parts)
    record = write(tmp_path / "file", parts)
    assert (tmp_path / "file").read_bytes() == due
    assert record == FileRecord(len(due), sha256(due).hexdigest())


def test_an_error_of_the_disk_is_raised_before_the_file_is_taken_for_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: HashedFile, block: memoryview) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(HashedFile, "_put", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "file", parts_of([5]))
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "file", parts_of([BLOCK] * 3))


def refuse_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """As file systems in memory do."""
    real = os.open

    def opened(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", opened)
