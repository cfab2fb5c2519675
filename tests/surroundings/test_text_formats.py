"""What files hold: line ends and separators, JSON that is no quite plain JSON, encodings, and compression."""

import bz2
import codecs
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from glm_data import BuildConfig, DataError, DatasetIndex, build, load_index
from tests.commands import Commands
from tests.data.corpora import build_inputs, read_documents


def built(folder: Path, content: dict[str, bytes], **settings: object) -> DatasetIndex:
    """A data set of files of this content, in `folder / "set"`."""
    (folder / "in").mkdir()
    for name, data in content.items():
        (folder / "in" / name).write_bytes(data)
    return build_inputs(folder / "set", folder / "in", **settings)


# Content, and the documents in it with the line each begins on.
DASHED: dict[str, tuple[bytes, list[str], list[int]]] = {
    "LF": (b"one\n1\n---\ntwo\n", ["one\n1", "two\n"], [1, 4]),
    "CRLF": (b"one\r\n1\r\n---\r\ntwo\r\n", ["one\r\n1", "two\r\n"], [1, 4]),
    "mixed": (b"one\n---\r\ntwo\r\n---\nthree\r\n", ["one", "two", "three\r\n"], [1, 3, 5]),
    "blanks behind": (b"one\n--- \t \ntwo\n---\t\r\nthree", ["one", "two", "three"], [1, 3, 5]),
    "line ends of two carriage returns": (b"one\r\r\n---\r\r\ntwo\r\r\n", ["one\r", "two\r\r\n"], [1, 3]),
    "first and last line": (b"---\r\none\r\n---\r\n", ["one"], [2]),
    "no final newline": (b"--- \none\n--- ", ["one"], [2]),
    "mark": (codecs.BOM_UTF8 + b"---\r\none", ["one"], [2]),
    "several": (b"one\r\n---\r\n--- \n---\r\ntwo", ["one", "two"], [1, 5]),
    "empty line first": (b"\r\n---\r\none", ["one"], [3]),
    "not alone on its line": (b"a ---\n --- b\n----\n", ["a ---\n --- b\n----\n"], [1]),
    "a carriage return within": (b"a\r---\rb\n---\nc", ["a\r---\rb", "c"], [1, 3]),
}
BLANK: dict[str, tuple[bytes, list[str], list[int]]] = {
    "LF": (b"one\n1\n\ntwo\n", ["one\n1", "two"], [1, 4]),
    "CRLF": (b"one\r\n1\r\n\r\ntwo\r\n", ["one\r\n1", "two"], [1, 4]),
    "mixed": (b"one\n\r\ntwo\r\n\nthree", ["one", "two", "three"], [1, 3, 5]),
    "blanks on the line": (b"one\n \t\ntwo\n\t\r\nthree", ["one", "two", "three"], [1, 3, 5]),
    "line ends of two carriage returns": (b"one\r\r\n1\r\r\n\r\r\ntwo", ["one\r\r\n1\r", "two"], [1, 4]),
    "many": (b"\r\n\n \none\n\n \r\n\r\ntwo\n\n", ["one", "two"], [4, 8]),
    "indented text": (b"  one\n\n\ttwo\n", ["  one", "\ttwo"], [1, 3]),
}


@pytest.mark.parametrize("block_size", [1, 2, 5, 1 << 20])
@pytest.mark.parametrize(
    ("separator", "case"), [("---", name) for name in DASHED] + [("--- \t", "CRLF")] + [("", name) for name in BLANK]
)
def test_a_separator_is_a_line_whatever_ends_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, separator: str, case: str, block_size: int
) -> None:
    content, texts, lines = (DASHED if separator else BLANK)[case]
    (tmp_path / "a.txt").write_bytes(content)
    monkeypatch.setattr("glm_data.text.BLOCK_SIZE", block_size)
    found = read_documents(tmp_path, document_separator=separator)
    assert (found.texts, found.lines) == (texts, lines)


def test_a_separator_that_never_occurs_is_a_warning_with_the_count(command: Commands, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.txt").write_bytes(b"once\r\nupon\n" + (b"---\r\n" if number == 2 else b"") + b"a time")
    (folder / "mac.txt").write_bytes(b"one\r---\rtwo")
    (folder / "lines.jsonl").write_bytes(b'{"text": "no text file"}\n')
    build_it = ("data", "build", "-i", folder, "-o", tmp_path / "set", "--vocab-size", "300")
    done = command(*build_it, "--document-separator", "---")
    assert done.code == 0, done.output
    warning = "text files in which the separator never occurs, each taken as one document: 5 (0.txt, 1.txt, 3.txt …)"
    for text in (done.stderr, done.stdout, command("data", "show", tmp_path / "set").stdout):
        assert warning in text, done.output
    assert load_index(tmp_path / "set").remarks["unseparated"].count == 5


@pytest.mark.parametrize("data", [b"one\ntwo\n", b"one\r\ntwo\r\n", b"one", b"one\rtwo\r\rthree"])
def test_the_end_of_a_file_is_no_blank_line(tmp_path: Path, data: bytes) -> None:
    index = built(tmp_path, {"a.txt": data, "b.txt": b"one\n\ntwo"}, document_separator="")
    assert index.remarks["unseparated"].examples == ["a.txt"]


def test_a_warning_survives_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    content = {"a.txt": b"one\ntwo\n", "b.txt": b"a\0b", "c.txt.gz": b""}
    with monkeypatch.context() as patch:
        patch.setattr("glm_data.builder.train_tokenizer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            built(tmp_path, content, document_separator="---")
    monkeypatch.setattr("glm_data.builder.scan_files", interrupted)  # it is not read once more
    config = BuildConfig(
        inputs=[tmp_path / "in"], output=tmp_path / "set", vocabulary_size=300, workers=1, validation_fraction=0.0,
        document_separator="---",
    )  # fmt: skip
    remarks = build(config).index.remarks
    assert {kind: remark.examples for kind, remark in remarks.items()} == {
        "unseparated": ["a.txt", "b.txt"],
        "nul": ["b.txt"],
        "empty": ["c.txt.gz"],
    }


DIGITS = "9" * 5000
GOOD_LINES = {
    "a long integer": f'{{"id": {DIGITS}, "text": "a"}}',
    "a long negative integer, deep": f'{{"x": [{{"id": -{DIGITS}}}], "text": "a"}}',
    "a long fraction": f'{{"x": 0.{DIGITS}, "y": 1e{DIGITS}, "text": "a"}}',
    "no number": '{"x": NaN, "y": -Infinity, "text": "a"}',
    "a mark in the middle": '\ufeff{"text": "a"}',
    "a mark in front of the first": '\ufeff\ufeff{"text": "a"}',
    "the same twice": '{"text": "a", "id": {"text": "b"}, "text": "a"}',
    "another object's text": '{"text": "a", "x": {"text": "b"}}',
    "CRLF": '{"text": "a"}\r',
    "surrogates elsewhere": '{"text": "a", "x": "\\ud800"}',
}


@pytest.mark.parametrize("name", GOOD_LINES)
def test_only_the_text_of_an_object_matters(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "first"}\n' + GOOD_LINES[name] + '\n{"text": "last"}\n', newline="")
    assert read_documents(tmp_path).texts == ["first", "a", "last"]


BAD_LINES = {
    "a long integer as text": (f'{{"text": {DIGITS}}}'.encode(), "'text' is not a text but a number"),
    "a long integer alone": (DIGITS.encode(), "not a JSON object but a number"),
    "two texts": (b'{"text": "a", "text": "b"}', "the key 'text' is there 2 times, with different values"),
    "a number as text": (b'{"text": 1.5}', "'text' is not a text but a number"),
    "an array": (b'[{"text": "a"}, {"text": "b"}]', r"not a JSON object but a list\..*jq -c '\.\[\]'"),
    "the begin of an array": (b'[{"text": "a"},', r"not a JSON object: .*jq -c '\.\[\]'"),
    "the begin of an object": (b"{", r"not a JSON object: .*jq -c \."),
    "carriage returns alone": (b'{"text": "a"}\r{"text": "b"}\r', r"not a JSON object: Extra data.*tr '\\r' '\\n'"),
    "NUL": (b'{"text": "a\0"}', "not a JSON object: Invalid control character"),
    "nothing but NUL": (b"\0\0\0", "not a JSON object"),
    "half a pair": (b'{"text": "a\\udc00"}', "'text' holds half a surrogate pair at character 2"),
    "a half pair in UTF-8": (b'{"text": "a\xed\xa0\x80"}', "not UTF-8"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_record_without_a_text_is_named_or_counted(tmp_path: Path, name: str) -> None:
    line, message = BAD_LINES[name]
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "first"}\n' + line + b'\n{"text": "last"}\n')
    with pytest.raises(DataError, match=rf"a\.jsonl:2: {message}.*--on-bad-record skip"):
        read_documents(tmp_path)
    found = read_documents(tmp_path, on_bad_record="skip")
    assert (found.texts, len(found.bad)) == (["first", "last"], 1)


FOREIGN = {
    "utf-16-le": (codecs.BOM_UTF16_LE, "text in UTF-16, not UTF-8.*iconv -f UTF-16 -t UTF-8"),
    "utf-16-be": (codecs.BOM_UTF16_BE, "text in UTF-16, not UTF-8.*iconv -f UTF-16 -t UTF-8"),
    "utf-32-le": (codecs.BOM_UTF32_LE, "text in UTF-32, not UTF-8.*iconv -f UTF-32 -t UTF-8"),
    "utf-32-be": (codecs.BOM_UTF32_BE, "text in UTF-32, not UTF-8.*iconv -f UTF-32 -t UTF-8"),
}


@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".txt.gz"])
@pytest.mark.parametrize("encoding", FOREIGN)
def test_other_encodings_are_called_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, ending: str
) -> None:
    mark, message = FOREIGN[encoding]
    # Every other byte is zero, so that much of it would be taken for UTF-8.
    data = mark + ('{"text": "a"}\n' * 20).encode(encoding)
    (tmp_path / f"a{ending}").write_bytes(gzip.compress(data) if ending.endswith(".gz") else data)
    (tmp_path / "b.txt").write_text("b")
    monkeypatch.setattr("glm_data.text.BLOCK_SIZE", 16)
    with pytest.raises(DataError, match=rf"a\{ending}: {message}"):
        read_documents(tmp_path)
    found = read_documents(tmp_path, on_bad_record="skip")
    assert (found.texts, len(found.bad)) == (["b"], 1)


@pytest.mark.parametrize(
    ("compress", "ending"), [(gzip.compress, "gz"), (bz2.compress, "bz2"), (zstandard.compress, "zst")]
)
def test_compressed_files_without_the_ending_are_called_so(
    tmp_path: Path, compress: Callable[[bytes], bytes], ending: str
) -> None:
    (tmp_path / "a.jsonl").write_bytes(compress(b'{"text": "a"}\n' * 100))
    with pytest.raises(DataError, match=rf"a\.jsonl: .*compressed with .*the ending \.{ending}"):
        read_documents(tmp_path)


def test_text_in_utf16_without_a_mark_is_a_warning(tmp_path: Path) -> None:
    index = built(tmp_path, {"a.txt": "plain".encode("utf-16-le"), "b.txt": b"fine"})
    assert index.remarks["nul"].examples == ["a.txt"]


def zstd(data: bytes, window_log: int = 20) -> bytes:
    parameters = zstandard.ZstdCompressionParameters(window_log=window_log, write_content_size=False)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return stream.compress(data) + stream.flush()


@pytest.mark.parametrize("window_log", [27, 28, 31])
def test_long_windows_are_read(tmp_path: Path, window_log: int) -> None:
    (tmp_path / "a.txt.zst").write_bytes(zstd(b"far apart", window_log))
    assert read_documents(tmp_path).texts == ["far apart"]


def test_a_window_beyond_all_is_named(tmp_path: Path) -> None:
    whole = bytearray(zstd(b"far apart", 31))
    whole[5] = (41 - 10) << 3  # the window descriptor: 2 TiB
    (tmp_path / "a.txt.zst").write_bytes(whole)
    with pytest.raises(DataError, match=r"a\.txt\.zst: .*window.*--long=31"):
        read_documents(tmp_path)


_SKIPPABLE = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"abcde"
STREAMS: dict[str, tuple[str, bytes]] = {
    "frames": (".zst", zstd(b"one ") + zstd(b"two")),
    "skippable frames": (".zst", _SKIPPABLE + zstd(b"one ") + _SKIPPABLE + zstd(b"two") + _SKIPPABLE),
    "empty frames": (".zst", zstd(b"") + zstd(b"one two") + zstd(b"")),
    "members": (".gz", gzip.compress(b"one ") + gzip.compress(b"two")),
    "members with padding": (".gz", gzip.compress(b"one ") + bytes(7) + gzip.compress(b"two") + bytes(512)),
    "streams": (".bz2", bz2.compress(b"one ") + bz2.compress(b"") + bz2.compress(b"two")),
}


@pytest.mark.parametrize("name", STREAMS)
def test_compressed_files_of_several_streams_are_read_to_the_end(tmp_path: Path, name: str) -> None:
    ending, data = STREAMS[name]
    (tmp_path / f"a.txt{ending}").write_bytes(data)
    assert read_documents(tmp_path).texts == ["one two"]


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".zst"])
def test_what_follows_a_whole_stream_is_not_dropped_in_silence(tmp_path: Path, ending: str) -> None:
    compressors: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".bz2": bz2.compress, ".zst": zstd}
    compress = compressors[ending]
    second = bytearray(compress(b"a second document"))
    second[1] ^= 1  # its first bytes, by which it is known
    for data in (compress(b"one") + second, compress(b"one") + b"garbage", b"plain text", bytes(20)):
        (tmp_path / f"a.txt{ending}").write_bytes(data)
        with pytest.raises(DataError, match=rf"a\.txt\{ending}: damaged or incomplete"):
            read_documents(tmp_path)


def test_files_that_hold_nothing_once_decompressed_are_counted(tmp_path: Path) -> None:
    empty = {"a.txt.gz": gzip.compress(b""), "b.jsonl.zst": zstd(b""), "c.jsonl": b"\n\r\n", "d.txt": codecs.BOM_UTF8}
    index = built(tmp_path, {**empty, "e.txt": b"text", "f.txt": b" \n"})
    assert (index.remarks["empty"].count, index.counts.empty) == (3, 2)  # a mark, or blanks, make an empty document
    assert json.loads((tmp_path / "set" / "index.json").read_bytes())["remarks"]["empty"]["examples"] == [
        "a.txt.gz", "b.jsonl.zst", "c.jsonl",
    ]  # fmt: skip
