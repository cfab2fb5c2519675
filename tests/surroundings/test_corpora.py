"""Whatever the input looks like, each of its documents is in the data set byte for byte, or named and counted.

Corpora are drawn: encodings, line ends, byte order marks, NULs, compression, links, names, rights, separators, sizes
around that of a block. What should come of each file is worked out here anew, line by line and without haste.
"""

from __future__ import annotations

import bz2
import codecs
import functools
import gzip
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glm_data import BuildConfig, DataError, build, load_index, load_tokenizer, train_tokenizer
from glm_data.index import SPLITS
from glm_data.naming import original
from glm_data.shards import SplitReader
from tests.data.corpora import documents

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.compress,
}


@dataclass
class File:
    """A file of a corpus. `damaged`: its compression breaks off; `hidden`: what its name says."""

    name: bytes
    content: bytes
    compression: str
    damaged: bool

    @property
    def raw(self) -> bytes:
        whole = COMPRESSORS[self.compression](self.content)
        return whole[: len(whole) * 2 // 3] if self.damaged else whole


@dataclass
class Expected:
    """What a build should make of a corpus. `broken`: that it cannot end well."""

    documents: Counter[str] = field(default_factory=Counter)
    bad: int = 0
    empty: int = 0
    broken: bool = False


# Sequences of bytes that files are made of; the smaller part of them is harmless.
_SCRAPS = [
    b"word", b" ", b"\n", b"\r\n", b"\r", b"\t", b"\0", b"---", b"\n---\n", b"\r\n--- \r\n", b"\n\n", b"\r\n \r\n",
    "é▁🜁".encode(), b"\xff", b"\xed\xa0\x80", codecs.BOM_UTF8, b"{", b"[1]", b"\x1f\x8b\x08", b"\x85", b"\xe2\x80\xa8",
    b"\x0c", b"x" * 40,
]  # fmt: skip
_STARTS = [b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE]
_texts = st.text(st.sampled_from("ab\n\r\t \0é▁🜁\ud800\u2028"), max_size=12)
_values: st.SearchStrategy[Any] = st.sampled_from(
    [0, -1.5, None, True, [], {"text": "inner"}, 10**4400, float("nan"), "other"]
)
_names = st.lists(
    st.sampled_from([b"a", b"b", b"c.txt", b"\xe9", b"\n", b" ", b"'", b"\\", b"$'", "日".encode(), b"\x1b"]),
    min_size=1, max_size=3,
).map(b"".join)  # fmt: skip


@st.composite
def _json_lines(draw: st.DrawFn) -> bytes:
    lines = []
    for _ in range(draw(st.integers(0, 5))):
        record = {draw(st.sampled_from(["id", "text "])): draw(_values)}
        if draw(st.integers(0, 7)):
            record["text"] = draw(_texts) if draw(st.integers(0, 5)) else draw(_values)
        line = dumps(record, ensure_ascii=draw(st.booleans()))
        lines.append(draw(st.sampled_from([b"", b"", codecs.BOM_UTF8, b" "])) + line)
    ends = st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\n \n"])
    return b"".join(line + draw(ends) for line in lines) + draw(st.sampled_from([b"", b"\n", b'{"text": "end"}', b"{"]))


def dumps(record: dict, *, ensure_ascii: bool) -> bytes:
    """A JSON line; numbers of more digits than Python writes in decimal are written anyway."""
    spelled = {key: "@" if isinstance(value, int) and value > 10**4000 else value for key, value in record.items()}
    text = json.dumps(spelled, ensure_ascii=ensure_ascii).replace('"@"', "9" * 4400)
    return text.encode("utf-8", "surrogatepass")


@st.composite
def files(draw: st.DrawFn) -> File:
    ending = draw(st.sampled_from([".txt", ".jsonl"]))
    pieces = draw(st.lists(st.sampled_from(_SCRAPS), max_size=12))
    content = draw(_json_lines()) if ending == ".jsonl" else b"".join(pieces)
    compression = draw(st.sampled_from(list(COMPRESSORS)))
    start = draw(st.sampled_from(_STARTS)) if not draw(st.integers(0, 3)) else b""
    name = draw(_names) + ending.encode() + compression.encode()
    damaged = bool(compression) and not draw(st.integers(0, 14))
    return File(name, b"" if not draw(st.integers(0, 9)) else start + content, compression, damaged)


@dataclass
class Corpus:
    files: list[File]
    folders: list[bytes]
    links: list[int]
    block_size: int
    separator: str | None


corpora = st.builds(
    Corpus,
    files=st.lists(files(), min_size=1, max_size=4),
    folders=st.lists(st.sampled_from([b"", b"sub/", b"sub/\xff/", b"s p/"]), min_size=4, max_size=4),
    links=st.lists(st.integers(0, 5), max_size=3),
    block_size=st.sampled_from([1, 2, 3, 7, 16, 40, 64, 1 << 20]),
    separator=st.sampled_from([None, None, "---", "", "--- ", "é"]),
)


def write(corpus: Corpus, folder: Path) -> dict[bytes, File]:
    """The files that lie in `folder` afterwards, by their names within it; of one name, the last."""
    written = {}
    root = os.fsencode(folder) + b"/"
    for file, place in zip(corpus.files, corpus.folders, strict=False):
        os.makedirs(root + place, exist_ok=True)  # noqa: PTH103 (a path of bytes)
        with open(root + place + file.name, "wb") as target:  # noqa: PTH123
            target.write(file.raw)
        written[place + file.name] = file
    beside = [
        lambda: (folder / "circle").symlink_to("."),
        lambda: (folder / "0-again.txt").symlink_to(os.fsdecode(root + next(iter(written)))),
        lambda: (folder / "notes.md").write_text("no text"),
        lambda: os.mkfifo(folder / "pipe.jsonl"),
        lambda: (folder / ".hidden.txt").write_text("hidden"),
        lambda: (folder / "up").symlink_to(".."),
    ]
    for number in sorted(set(corpus.links)):
        beside[number]()
    return written


_FOREIGN = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE, b"\x1f\x8b\x08")


def expect(corpus: Corpus, written: dict[bytes, File]) -> Expected:
    expected = Expected()
    for name, file in written.items():
        if file.damaged:
            expected.broken = True
        elif file.content.startswith(_FOREIGN):
            expected.bad += 1
        else:
            content = file.content.removeprefix(codecs.BOM_UTF8)
            (_expect_lines if b".jsonl" in name else functools.partial(_expect_text, corpus.separator))(
                content, expected
            )
    return expected


def _expect_text(separator: str | None, content: bytes, expected: Expected) -> None:
    for piece in [content] if separator is None else _cut(content, separator.rstrip().encode()):
        try:
            text = piece.decode()
        except UnicodeDecodeError:
            expected.bad += 1
            continue
        expected.documents[text] += bool(text.strip())


def _cut(content: bytes, separator: bytes) -> list[bytes]:
    lines = content.split(b"\n")
    pieces: list[list[bytes]] = [[]]
    for number, line in enumerate(lines):
        # Behind the last line end there is no line; for a blank line it ends the document all the same.
        last = number == len(lines) - 1
        if line.rstrip(b" \t\r") == separator:
            pieces.append([])
        else:
            pieces[-1].append(line if last else line + b"\n")
    found = [b"".join(piece) for piece in pieces]
    return [_without_end(piece) for piece in found[:-1]] + found[-1:]


def _without_end(piece: bytes) -> bytes:
    return piece.removesuffix(b"\n").removesuffix(b"\r") if piece.endswith(b"\n") else piece


def _expect_lines(content: bytes, expected: Expected) -> None:
    for line in content.split(b"\n"):
        if not line.strip():
            continue
        try:
            text = json.loads(line.decode().lstrip("\ufeff"), parse_int=lambda _: 0)["text"]
            text.encode() if isinstance(text, str) else text["not a text"]
        except (ValueError, TypeError, KeyError, AttributeError):
            expected.bad += 1
        else:
            expected.documents[text] += bool(text.strip())


@functools.cache
def tokenizer_file() -> Path:
    """A tokenizer that is not trained anew for each corpus."""
    path = Path(tempfile.mkdtemp()) / "tokenizer.model"
    path.write_bytes(train_tokenizer(documents(30), 300).files[path.name])
    return path


def texts_of(data: Path) -> Counter[str]:
    index, tokenizer = load_index(data), load_tokenizer(data)
    found: Counter[str] = Counter()
    for split in SPLITS:
        reader = SplitReader(data, index, split)
        for number in range(len(reader)):
            found[tokenizer.decode_bytes(reader.read(number, 0, reader.length(number)).tolist()).decode()] += 1
    return found


def check(corpus: Corpus, stop: bool) -> None:
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setattr("glm_data.text.BLOCK_SIZE", corpus.block_size)
        folder, output = Path(place, "in"), Path(place, "set")
        folder.mkdir()
        written = write(corpus, folder)
        expected = expect(corpus, written)
        wanted = {text for text, count in expected.documents.items() if count}
        config = BuildConfig(
            inputs=[folder], output=output, workers=1, tokenizer=tokenizer_file(), shard_bytes=64,
            document_separator=corpus.separator, on_bad_record="stop" if stop else "skip",
        )  # fmt: skip
        if expected.broken or not wanted or (stop and expected.bad):
            with pytest.raises(DataError) as caught:
                build(config)
            assert str(caught.value).isprintable()
            return
        index = build(config).index
        assert texts_of(output) == Counter(wanted)
        assert index.counts.bad == expected.bad
        assert index.input.files == len(written)
        assert index.counts.duplicates == sum(expected.documents.values()) - len(wanted)
        for remark in index.remarks.values():
            assert all(name.isprintable() for name in remark.examples)
        if "nul" in index.remarks:
            assert os.fsencode(original(index.remarks["nul"].examples[0])) in written
        assert build(config).up_to_date


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(corpora, st.booleans())
def test_every_document_is_built_or_named(corpus: Corpus, stop: bool) -> None:
    check(corpus, stop)


@pytest.mark.soak
@pytest.mark.timeout(0)
@settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(corpora, st.booleans())
def test_every_document_is_built_or_named_at_length(corpus: Corpus, stop: bool) -> None:
    check(corpus, stop)
