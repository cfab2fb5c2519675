"""Parquet and Arrow tables, nested keys and patterns: all texts in order, bounded memory, mistakes by their place."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from glm_data import DataError
from glm_data.inputs import find_files
from glm_data.text import BLOCK_SIZE, Reading, read_blocks
from tests.data.corpora import build_inputs, documents, read_documents, write_jsonl

TEXTS = [*documents(300), "x" * 3 * BLOCK_SIZE, "naïve ▁"]


def write_stream(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, 100)


def write_file(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, 100)


def write_parquet(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, row_group_size=70)


WRITERS: dict[str, tuple[str, Callable[[pa.Table, Path], None]]] = {
    "parquet": ("a.parquet", write_parquet),
    "stream": ("a.arrow", write_stream),
    "file": ("a.arrow", write_file),
}


@pytest.fixture(params=WRITERS)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[pa.Table], Path]:
    """Writes a table, in one format after the other."""
    name, write = WRITERS[request.param]

    def write_it(table: pa.Table) -> Path:
        write(table, tmp_path / name)
        return tmp_path / name

    return write_it


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_all_rows_are_read_in_order(written: Callable[[pa.Table], Path], kind: pa.DataType) -> None:
    column = pa.array([text.encode() for text in TEXTS] if kind == pa.binary() else TEXTS).cast(kind)
    path = written(pa.table({"id": range(len(TEXTS)), "text": column}))
    found = read_documents(path)
    assert found.texts == TEXTS
    assert found.lines == [*range(1, len(TEXTS) + 1)]


def test_blocks_are_bounded(written: Callable[[pa.Table], Path]) -> None:
    path = written(pa.table({"text": [text * 20 for text in TEXTS[:300]] * 4}))
    blocks = list(read_blocks(find_files([path]).files[0], Reading()))
    assert len(blocks) > 2
    assert max(len(block.data) for block in blocks) < 3 * BLOCK_SIZE


def test_a_data_set_of_a_table_is_the_same_with_any_number_of_workers(tmp_path: Path) -> None:
    write_parquet(pa.table({"text": documents(800, longest=2000)}), tmp_path / "a.parquet")
    one, two = (build_inputs(tmp_path / f"set{n}", tmp_path / "a.parquet", workers=n) for n in (1, 2))
    assert one.documents_sha256 == two.documents_sha256
    assert {name: split.shards for name, split in one.splits.items()} == {n: s.shards for n, s in two.splits.items()}


def test_texts_within_structures(written: Callable[[pa.Table], Path], tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"meta": {"body": text, "n": 1}, "a.b": "dotted"} for text in TEXTS[:5]]
    assert read_documents(written(pa.Table.from_pylist(rows)), text_key="meta.body").texts == TEXTS[:5]
    assert read_documents(written(pa.Table.from_pylist(rows)), text_key="a.b").texts == ["dotted"] * 5
    lines = tmp_path / "a.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_documents(lines, text_key="meta.body").texts == TEXTS[:5]
    assert read_documents(lines, text_key="a.b").texts == ["dotted"] * 5
    with pytest.raises(DataError, match=r"a\.jsonl:1: no key 'meta\.text'; its keys are 'meta\.body', 'meta\.n'"):
        read_documents(lines, text_key="meta.text")
    lines.write_text('{"meta": {"body": "one", "body": "two"}}\n')
    with pytest.raises(DataError, match="'body' is there 2 times"):
        read_documents(lines, text_key="meta.body")


@pytest.mark.parametrize(
    ("rows", "key", "told"),
    [
        ([{"content": "a", "id": 1}], "text", r"no column 'text'; its columns are 'content', 'id'\. Choose"),
        ([{"meta": {"a": "x"}}], "meta.text", r"no column 'meta\.text'; its columns are 'meta\.a'"),
        ([{"text": 5}], "text", "the column 'text' is not of texts but of int64"),
        ([{"text": ["a"]}], "text", "is not of texts but of list"),
        ([{"text": "a"}, {"text": None}], "text", "2: the text is null"),
        ([{"text": b"a"}, {"text": b"\xff\xfe"}], "text", "2: not UTF-8"),
    ],
)
def test_what_holds_no_text_is_told_or_left_out(
    written: Callable[[pa.Table], Path], rows: list[dict[str, Any]], key: str, told: str
) -> None:
    path = written(pa.Table.from_pylist(rows))
    with pytest.raises(DataError, match=rf"a\.(parquet|arrow).*{told}"):
        read_documents(path, text_key=key)
    good = write_jsonl(path.with_name("good.jsonl"), ["good"], key="more")
    good.write_text(json.dumps({key: "good"}) + "\n")
    found = read_documents(path, good, text_key=key, on_bad_record="skip")
    assert found.texts[-1] == "good"
    assert len(found.bad) == 1


def test_files_that_end_too_early_are_damaged(written: Callable[[pa.Table], Path]) -> None:
    path = written(pa.table({"text": TEXTS[:200]}))
    whole = path.read_bytes()
    for keep in (0, 3, len(whole) // 2, len(whole) - 8, len(whole) - 1):
        path.write_bytes(whole[:keep])
        with pytest.raises(DataError, match=r"a\.(parquet|arrow): damaged or incomplete: .*Fetch it again"):
            read_documents(path)


def test_damage_within_a_page_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": TEXTS[:200]}), path, write_page_checksum=True)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 3] ^= 0xFF
    path.write_bytes(whole)
    with pytest.raises(DataError, match="damaged or incomplete"):
        read_documents(path)


def test_patterns_stand_for_the_files_that_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b/2.jsonl", "b/1.jsonl", "a.jsonl", "b/.hidden.jsonl", "b/note.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_jsonl(tmp_path / name, [name])
    assert read_documents(tmp_path / "b" / "*.jsonl").texts == ["b/1.jsonl", "b/2.jsonl"]
    monkeypatch.chdir(tmp_path)
    assert read_documents(Path("**/*.jsonl")).texts == ["a.jsonl", "b/1.jsonl", "b/2.jsonl"]
    with pytest.raises(DataError, match=r"c/\*\.jsonl: nothing matches this pattern"):
        find_files([Path("c/*.jsonl")])
    (tmp_path / "odd[1].jsonl").write_text('{"text": "odd"}\n')
    assert read_documents(Path("odd[1].jsonl")).texts == ["odd"]


def test_json_lines_by_other_names(tmp_path: Path) -> None:
    """Dolma's are .json.gz; a plain .json in a folder is a configuration, as beside the tables of `datasets`."""
    import gzip

    (tmp_path / "c4-0000.json.gz").write_bytes(gzip.compress(b'{"text": "dolma"}\n'))
    (tmp_path / "state.json").write_text("{\n}")
    (tmp_path / "b.ndjson").write_text('{"text": "nd"}\n')
    assert read_documents(tmp_path).texts == ["nd", "dolma"]
    (tmp_path / "plain.json").write_text('{"text": "plain"}\n')
    assert read_documents(tmp_path / "plain.json").texts == ["plain"]
