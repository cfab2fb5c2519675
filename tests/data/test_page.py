"""The commands of the page on data do what they say, typed as they stand there."""

import gzip
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from glm_data import load_index
from tests.cli.test_readme import ROOT, commands
from tests.data.corpora import documents, write_jsonl
from tests.data.test_adoption import megatron, nanogpt, tokenizer
from tests.data.test_cli import invoke
from tests.data.test_hugging_face import without_control_tokens

LINES = commands(ROOT / "docs" / "pages" / "data.md")
TEXTS = documents(60)


def books(folder: Path) -> None:
    for number, text in enumerate(TEXTS):
        (folder / f"{number}.txt").write_text(text)


def lines(folder: Path, name: str, compress: Callable[[bytes], bytes]) -> None:
    path = write_jsonl(folder / "plain", TEXTS)
    (folder / name).write_bytes(compress(path.read_bytes()))
    path.unlink()


def arrow(folder: Path) -> None:
    table = pa.Table.from_pylist([{"meta": {"body": text}} for text in TEXTS])
    with pa.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text("{}")


WRITERS: dict[str, Callable[[Path], Any]] = {
    "books": books,
    "dclm": lambda folder: lines(folder, "a.jsonl.zst", zstandard.ZstdCompressor().compress),
    "dolma": lambda folder: lines(folder, "c4-0000.json.gz", gzip.compress),
    "fineweb": lambda folder: pq.write_table(pa.table({"text": TEXTS}), folder / "000.parquet"),
    "saved": arrow,
    "openwebtext": lambda folder: nanogpt(folder / "train.bin"),
    "megatron": lambda folder: megatron(folder / "web_text_document.bin"),
    "models/gpt2": lambda folder: [(folder / name).write_bytes(c) for name, c in tokenizer("gpt2").files.items()],
    "models/other": without_control_tokens,
}


def test_the_page_has_commands_and_they_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, write in WRITERS.items():
        (tmp_path / name).mkdir(parents=True)
        write(tmp_path / name)
    (tmp_path / "stories.txt").write_text("\n<|endoftext|>\n".join(TEXTS))
    here = [line for line in LINES if "s3://" not in line]
    assert len(here) >= 10
    for line in here:
        invoke(*shlex.split(line)[2:])
    sizes = {
        folder.name: sum(split.documents for split in load_index(folder).splits.values())
        for folder in (tmp_path / "data").iterdir()
    }
    assert set(sizes.values()) == {len(TEXTS)}, sizes
    assert json.loads((tmp_path / "data" / "books-gpt2" / "index.json").read_text())["tokenizer_files"]


def test_so_does_the_one_for_object_stores(store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = [line for line in LINES if "s3://" in line]
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"text": TEXTS}), "0.parquet")
    store.mkdir("corpora")
    store.put("0.parquet", "corpora/web/0.parquet")
    invoke(*shlex.split(line)[2:])
    assert sum(split.documents for split in load_index(tmp_path / "data" / "web").splits.values()) == len(TEXTS)
