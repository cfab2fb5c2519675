"""Memory that reading takes: about a block of a table, whatever its row groups are, and a few times a single record."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

_READS_ALL = """
import sys
from pathlib import Path
import pyarrow.parquet
from glm_data.inputs import find_files
from glm_data.text import Reading, parse, read_blocks

def peak():
    # Not getrusage's: that one begins with what the process had that started this one.
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

before, reading = peak(), Reading()
file, = find_files([Path(sys.argv[1])]).files
print(sum(len(parse(block, reading).texts) for block in read_blocks(file, reading)), peak() - before)
"""
_MEBIBYTE = 1024  # KiB


def read_all(path: Path) -> tuple[int, int]:
    """Texts of a file, and the KiB that reading them took."""
    done = subprocess.run([sys.executable, "-c", _READS_ALL, str(path)], capture_output=True, text=True, check=True)
    count, kibibytes = map(int, done.stdout.split())
    return count, kibibytes


def one_group(path: Path, texts: list[str], **how: Any) -> Path:
    """A table of one row group, in pages of a megabyte."""
    pq.write_table(pa.table({"text": pa.array(texts)}), path, row_group_size=len(texts), use_dictionary=False, **how)
    return path


@pytest.mark.parametrize("mebibytes", [100, pytest.param(1024, marks=pytest.mark.soak)])
def test_a_large_row_group_is_not_held(tmp_path: Path, mebibytes: int) -> None:
    text = "0123456789abcdef" * 64
    path = one_group(tmp_path / "a.parquet", [f"{number}{text}"[:1024] for number in range(1000)] * mebibytes)
    count, kibibytes = read_all(path)
    assert count == 1000 * mebibytes
    assert kibibytes < 60 * _MEBIBYTE


def test_nor_are_many_of_its_rows_where_they_are_long(tmp_path: Path) -> None:
    path = one_group(tmp_path / "a.parquet", [str(number) * 500_000 for number in range(100, 300)], write_batch_size=1)
    count, kibibytes = read_all(path)
    assert count == 200
    assert kibibytes < 60 * _MEBIBYTE  # of 300 MB


def test_a_long_line_is_held_a_few_times(tmp_path: Path) -> None:
    path, size = tmp_path / "a.jsonl", 50 * _MEBIBYTE
    path.write_text(json.dumps({"text": "x" * 1024 * size}) + '\n{"text": "short"}\n')
    count, kibibytes = read_all(path)
    assert count == 2
    assert kibibytes < 5 * size
