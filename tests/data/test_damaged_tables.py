"""Tables that are damaged, or unlike others of their data set: told by their place, never the end of a process."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from glm_data import DataError
from tests.data.corpora import build_inputs, read_documents

TEXTS = [f"text {number} é" * (number * 7 % 23 + 1) for number in range(300)]
KINDS = (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()))


def stream(path: Path, column: pa.Array, rows: int = 100) -> Path:
    table = pa.table({"text": column})
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, rows)
    return path


def parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def not_utf8() -> pa.Array:
    """What says that it is text, and is not: Arrow does not look."""
    return pa.array([b"good", b"\xff\xfe bad", b"\xed\xa0\x80 half a pair", b"fine"]).view(pa.string())


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_wrong_bytes_anywhere_are_read_or_told(tmp_path: Path, kind: pa.DataType) -> None:
    """Lengths and offsets that point beyond the file have ended whole processes."""
    path = stream(tmp_path / "a.arrow", pa.array(TEXTS).cast(kind))
    whole, random_ = path.read_bytes(), random.Random(0)
    told = 0
    for _ in range(150):
        damaged, at = bytearray(whole), random_.randrange(len(whole) - 4)
        damaged[at : at + 4] = random_.choice([b"\xff\xff\xff\x7f", b"\xff" * 4, bytes(4), random_.randbytes(4)])
        path.write_bytes(damaged)
        try:
            read_documents(path)
        except DataError as error:
            told += "a.arrow" in str(error)
    assert told > 20


@pytest.mark.parametrize("write", [stream, lambda path, column: parquet(path, text=column)], ids=["arrow", "parquet"])
def test_texts_that_are_no_utf8_are_named_by_their_row(tmp_path: Path, write: Callable[[Path, pa.Array], Path]) -> None:
    path = write(tmp_path / ("a.arrow" if write is stream else "a.parquet"), not_utf8())
    with pytest.raises(DataError, match=r"a\.(arrow|parquet):2: not UTF-8: invalid start byte at byte 1.*skip"):
        read_documents(path)
    found = read_documents(path, on_bad_record="skip")
    assert found.texts == ["good", "fine"]
    assert len(found.bad) == 2


def test_a_column_that_is_there_twice_is_no_choice(tmp_path: Path) -> None:
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: the column 'text' is there 2 times"):
        read_documents(tmp_path / "a.parquet")


def test_files_of_other_schemas_are_named_or_left_out(tmp_path: Path) -> None:
    """Texts of whatever type are texts; a file without is told with its name, and left out whole."""
    folder = tmp_path / "in"
    folder.mkdir()
    parquet(folder / "0.parquet", text=["a"], id=[1])
    parquet(folder / "1.parquet", id=["x"], text=pa.array([b"b"]))
    parquet(folder / "2.parquet", text=pa.array(["c"], pa.large_string()))
    parquet(folder / "3.parquet", content=["d"])
    parquet(folder / "4.parquet", text=[5])
    parquet(folder / "5.parquet", text=pa.nulls(2))
    parquet(folder / "6.parquet", text=["e"])
    for name, what in (("3", "no column 'text'; its columns are 'content'"), ("4", "of int64"), ("5", "of null")):
        with pytest.raises(DataError, match=rf"{name}\.parquet: .*{what}.*--"):
            read_documents(folder)
        (tmp_path / f"{name}.parquet").write_bytes((folder / f"{name}.parquet").read_bytes())
        (folder / f"{name}.parquet").unlink()
    index = build_inputs(tmp_path / "set", folder, tmp_path / "3.parquet", tmp_path / "5.parquet", on_bad_record="skip")
    assert (index.counts.records, index.counts.bad, index.splits["train"].documents) == (6, 2, 4)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_tables_without_rows_are_counted_as_empty(tmp_path: Path, name: str) -> None:
    nothing = pa.array([], pa.string())
    (stream if name.endswith("arrow") else lambda path, column: parquet(path, text=column))(tmp_path / name, nothing)
    (tmp_path / "b.jsonl").write_text('{"text": "something"}\n')
    index = build_inputs(tmp_path / "set", tmp_path / name, tmp_path / "b.jsonl")
    assert index.remarks["empty"].examples == [name]


def test_what_two_patterns_match_is_told(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", text=["a"])
    with pytest.raises(DataError, match=r"a\.parquet: given more than once"):
        read_documents(tmp_path / "*.parquet", tmp_path / "a.*")
