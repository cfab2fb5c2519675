"""Reading text files: every format, every compression, every mistake named with its place."""

import bz2
import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from glm_data import DataError
from glm_data.inputs import find_files
from glm_data.text import BLOCK_SIZE, Block, Reading, parse
from tests.data.corpora import read_documents


def zstd(data: bytes) -> bytes:
    """Two frames, as tools that compress in parallel write them."""
    compressor = zstandard.ZstdCompressor()
    return compressor.compress(data[: len(data) // 2]) + compressor.compress(data[len(data) // 2 :])


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": zstd,
}


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_formats_and_compressions(tmp_path: Path, compression: str) -> None:
    texts = ["one\n two ", "naïve ▁", "\ttrois\r\n", "x" * 3 * BLOCK_SIZE, "last"]
    lines = "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts)
    compress = COMPRESSORS[compression]
    (tmp_path / f"a.jsonl{compression}").write_bytes(compress(lines.encode()))
    (tmp_path / f"b.txt{compression}").write_bytes(compress(b"whole\n\nfile\n"))
    found = read_documents(tmp_path)
    assert found.texts == [*texts, "whole\n\nfile\n"]
    assert found.lines == [1, 2, 3, 4, 5, 1]


@pytest.mark.parametrize("compression", [".gz", ".bz2", ".zst"])
@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_damaged_compression_is_noticed(tmp_path: Path, compression: str, damage: str) -> None:
    noise = "".join(chr(random.Random(0).randrange(32, 127)) for _ in range(1000)) * 40
    whole = COMPRESSORS[compression](noise.encode())
    damaged = whole[: len(whole) * 3 // 4] if damage == "truncated" else b"\0" * 40 + whole[40:]
    path = tmp_path / f"a.txt{compression}"
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=rf"a\.txt\{compression}: damaged or incomplete"):
        read_documents(path)


def test_folders_are_searched_in_order_and_hidden_files_passed_over(tmp_path: Path) -> None:
    for name in ("b/2.txt", "b/10.txt", "a.txt", ".hidden.txt", ".git/x.txt", "notes.md", "b/image.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [file.name for file in find_files([tmp_path]).files] == ["a.txt", "b/10.txt", "b/2.txt"]


def test_inputs_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: there is no such file"):
        find_files([tmp_path / "nowhere"])
    with pytest.raises(DataError, match=r"holds no text.*\.jsonl"):
        find_files([tmp_path])
    other = tmp_path / "book.pdf"
    other.touch()
    with pytest.raises(DataError, match=r"book\.pdf: not a known format.*\.txt"):
        find_files([other])
    text = tmp_path / "a.txt"
    text.touch()
    with pytest.raises(DataError, match="more than once"):
        find_files([text, tmp_path])


BAD_LINES = {
    "broken JSON": (b'{"text": "a', "not a JSON object: Unterminated string"),
    "not an object": (b'["text"]', "not a JSON object but a list"),
    "no key": (
        b'{"content": "a", "id": 3}',
        r"no key 'text'; its keys are 'content', 'id'. Choose one with --text-key",
    ),
    "not a text": (b'{"text": 7}', "'text' is not a text but a number"),
    "null": (b'{"text": null}', "'text' is not a text but null"),
    "not UTF-8": (b'{"text": "caf\xe9"}', "not UTF-8: .* 0xe9 at byte 14"),
    "half a surrogate pair": (b'{"text": "a\\ud800"}', "'text' holds half a surrogate pair at character 2"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_named_or_skipped_and_counted(tmp_path: Path, name: str) -> None:
    line, message = BAD_LINES[name]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "first"}\n\n' + line + b'\n{"text": "last"}')
    with pytest.raises(DataError, match=rf"a\.jsonl:3: {message}.*--on-bad-record skip"):
        read_documents(path)
    found = read_documents(path, on_bad_record="skip")
    assert found.texts == ["first", "last"]
    assert found.lines == [1, 4]
    assert len(found.bad) == 1


def test_bad_lines_are_named_behind_the_first_block(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "x" * 100}) + "\n" * 1)
    path.write_text((json.dumps({"text": "x" * 100}) + "\n") * 30_000 + "oops\n")
    with pytest.raises(DataError, match=r"a\.jsonl:30001: "):
        read_documents(path)


def test_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"first\nsecond \xff")
    with pytest.raises(DataError, match=r"a\.txt:1: not UTF-8: .* 0xff at byte 14 on line 2"):
        read_documents(path)


def test_another_key_can_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"body": "hello"}\n')
    assert read_documents(path, text_key="body").texts == ["hello"]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\n')
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfb")
    assert read_documents(tmp_path).texts == ["a", "b"]


def test_empty_documents_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": ""}\n{"text": " \\n"}\n{"text": "a"}\n')
    found = read_documents(path)
    assert (found.texts, found.empty) == (["a"], 2)


def test_documents_within_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("<|end|>\none\n\nstill one\n<|end|>\n<|end|>\ntwo <|end|> two\n<|end|>\nthree\n<|end|>")
    found = read_documents(path, document_separator="<|end|>")
    assert found.texts == ["one\n\nstill one", "two <|end|> two", "three"]
    assert found.lines == [2, 7, 9]
    assert read_documents(path, document_separator="").texts[0] == "<|end|>\none"
    with pytest.raises(DataError, match="one line"):
        read_documents(path, document_separator="a\nb")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab-\n", max_size=8).filter(lambda text: "--" not in text), max_size=8), st.data())
def test_separated_documents_do_not_depend_on_blocks(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], data: st.DataObject
) -> None:
    """However a file falls into blocks, its documents are those of the file in one piece."""
    import glm_data.text as module

    path = tmp_path_factory.mktemp("text") / "a.txt"
    separator = data.draw(st.sampled_from(["--", ""]))
    path.write_text(f"\n{separator}\n".join(parts))
    reading = Reading(document_separator=separator)
    whole = parse(Block("a.txt", "a.txt", ".txt", 1, path.read_bytes()), reading)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_SIZE", data.draw(st.integers(1, 9)))
        found = read_documents(path, document_separator=separator)
    assert (found.texts, found.lines) == (whole.texts, whole.lines)
