"""Reading text: which files there are, their blocks of records, and the documents within a block.

Files are read in blocks of about a megabyte that end at the end of a record. The blocks are the same whoever
processes them, which makes the work parallel and the result independent of the number of workers.
"""

import bz2
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import zstandard

from glm_data.errors import DataError

FORMATS = (".txt", ".jsonl")
COMPRESSIONS = (".gz", ".bz2", ".zst")
BLOCK_SIZE = 1 << 20  # bytes
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LARGEST_DOCUMENT = (1 << 32) - 1  # bytes; lengths are stored in 32 bits
_KEYS_SHOWN = 8


@dataclass(frozen=True)
class Reading:
    """How documents are found in files.

    Attributes:
        text_key: of the objects in .jsonl files.
        document_separator: a line of .txt files that separates documents ("" is a blank line); None takes each file
            as one document.
        on_bad_record: "stop" at a record that cannot be read, or "skip" and count it.
    """

    text_key: str = "text"
    document_separator: str | None = None
    on_bad_record: Literal["stop", "skip"] = "stop"


@dataclass(frozen=True)
class InputFile:
    """A file to read. `name` is relative to what the user gave, so that it is the same wherever the files lie."""

    path: Path
    name: str
    size: int
    modified: int  # nanoseconds
    format: str  # one of FORMATS
    compression: str  # one of COMPRESSIONS, or ""


@dataclass(frozen=True)
class Block:
    """Some whole records of one file."""

    file: str
    format: str
    first_line: int
    data: bytes


@dataclass
class Documents:
    """The documents of a block, with the line each of them begins on, and what was left out."""

    texts: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    empty: int = 0
    bad: list[str] = field(default_factory=list)

    def add(self, line: int, text: str) -> None:
        if text.strip():
            self.lines.append(line)
            self.texts.append(text)
        else:
            self.empty += 1


def find_files(inputs: list[Path]) -> list[InputFile]:
    """The text files among the inputs: in the order given, folders searched and sorted by name.

    Hidden files, and files of other formats within folders, are passed over.

    Raises:
        DataError: an input does not exist, is of an unknown format, or there is nothing to read.
    """
    files: list[InputFile] = []
    for given in inputs:
        path = given.expanduser()
        if path.is_dir():
            found = sorted(
                (entry.relative_to(path).as_posix(), entry)
                for entry in path.rglob("*")
                if _format_of(entry) and entry.is_file() and not _hidden(entry.relative_to(path))
            )
            if not found:
                raise DataError(f"{given}: the folder holds no text. {_KNOWN_FORMATS}")
            files += [_describe(entry, name) for name, entry in found]
        elif not path.exists():
            raise DataError(f"{given}: there is no such file or folder.")
        elif not _format_of(path):
            raise DataError(f"{given}: not a known format. {_KNOWN_FORMATS}")
        else:
            files.append(_describe(path, path.name))
    resolved = [file.path.resolve() for file in files]
    twice = {path for path in resolved if resolved.count(path) > 1} if len(set(resolved)) < len(resolved) else set()
    if twice:
        raise DataError(f"{min(twice)}: given more than once. Name each file or folder once.")
    return files


_KNOWN_FORMATS = (
    f"Known are {', '.join(FORMATS)}, each also compressed as {', '.join(COMPRESSIONS)} (such as corpus.jsonl.zst)."
)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _format_of(path: Path) -> str:
    stem = path.with_suffix("") if path.suffix in COMPRESSIONS else path
    return stem.suffix if stem.suffix in FORMATS else ""


def _describe(path: Path, name: str) -> InputFile:
    compression = path.suffix if path.suffix in COMPRESSIONS else ""
    status = path.stat()
    return InputFile(path, name, status.st_size, status.st_mtime_ns, _format_of(path), compression)


def read_blocks(file: InputFile, reading: Reading) -> Iterator[Block]:
    """Cut a file into blocks of whole records.

    Raises:
        DataError: the file cannot be read, or its compression is damaged.
    """
    separator = b"\n" if file.format == ".jsonl" else _separator(reading)
    line = 1
    try:
        with _open(file) as stream:
            for data in _cut(stream, separator):
                content = data.removeprefix(_BYTE_ORDER_MARK) if line == 1 else data
                yield Block(file.name, file.format, line, content)
                line += data.count(b"\n")
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        what = "damaged or incomplete" if file.compression and not isinstance(error, PermissionError) else "unreadable"
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{file.path}: {what}: {reason}. Mend it or take it out of the input.") from error


def _separator(reading: Reading) -> bytes | None:
    if reading.document_separator is None:
        return None
    if "\n" in reading.document_separator:
        raise DataError(f"The document separator {reading.document_separator!r} must be one line.")
    return b"\n" + reading.document_separator.encode() + b"\n" if reading.document_separator else b"\n\n"


def _cut(stream: io.BufferedIOBase, separator: bytes | None) -> Iterator[bytes]:
    """Blocks of at least `BLOCK_SIZE` that end with a separator; one block if there is none."""
    pending = io.BytesIO()
    searched = 0  # no separator begins in front of this position
    while chunk := stream.read(BLOCK_SIZE):
        pending.write(chunk)
        if separator is None or pending.tell() < BLOCK_SIZE:
            continue
        end = pending.getbuffer()[searched:].tobytes().rfind(separator)
        if end < 0:
            searched = max(pending.tell() - len(separator) + 1, 0)
            continue
        data = pending.getvalue()
        cut = searched + end + len(separator)
        yield data[:cut]
        pending = io.BytesIO()
        pending.write(data[cut:])
        searched = 0
    if pending.tell():
        yield pending.getvalue()


def _open(file: InputFile) -> io.BufferedIOBase:
    openers: dict[str, Callable[[Path], io.BufferedIOBase]] = {
        "": lambda path: path.open("rb"),
        ".gz": gzip.GzipFile,
        ".bz2": bz2.BZ2File,
        ".zst": lambda path: io.BufferedReader(_ZstandardFile(path), BLOCK_SIZE),
    }
    return openers[file.compression](file.path)


class _ZstandardFile(io.RawIOBase):
    """A reader of Zstandard files that notices when a file ends too early, as the library's own does not."""

    def __init__(self, path: Path):
        self._file = path.open("rb")
        self._decompressor = zstandard.ZstdDecompressor().decompressobj()
        self._input = b""
        self._output = memoryview(b"")
        self._within_frame = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._output:
            if not self._input:
                self._input = self._file.read(BLOCK_SIZE)
                if not self._input:
                    if self._within_frame:
                        raise EOFError("the file ends within a compressed frame")
                    return 0
            self._output = memoryview(self._decompressor.decompress(self._input))
            self._within_frame = not self._decompressor.eof
            self._input = b""
            if self._decompressor.eof:
                self._input = self._decompressor.unused_data
                self._decompressor = zstandard.ZstdDecompressor().decompressobj()
        size = min(len(buffer), len(self._output))
        buffer[:size] = self._output[:size]
        self._output = self._output[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


def parse(block: Block, reading: Reading) -> Documents:
    """The documents of a block.

    Raises:
        DataError: a record cannot be read and `reading.on_bad_record` is "stop"; names file and line.
    """
    documents = Documents()
    records = _json_records(block) if block.format == ".jsonl" else _text_records(block, reading)
    convert = _text_of_json if block.format == ".jsonl" else _decode
    for line, record in records:
        try:
            documents.add(line, convert(record, reading))
        except _BadRecordError as error:
            message = f"{block.file}:{line}: {error}"
            if reading.on_bad_record == "stop":
                raise DataError(f"{message} Mend it, or leave such records out with --on-bad-record skip.") from None
            documents.bad.append(message)
    return documents


class _BadRecordError(Exception):
    pass


def _json_records(block: Block) -> Iterator[tuple[int, bytes]]:
    for number, record in enumerate(block.data.split(b"\n")):
        if record.strip():
            yield block.first_line + number, record


def _text_records(block: Block, reading: Reading) -> Iterator[tuple[int, bytes]]:
    if reading.document_separator is None:
        yield block.first_line, block.data
        return
    separator = re.escape(reading.document_separator.encode())
    start, line = 0, block.first_line
    # One or more separating lines, also where the file begins or ends.
    for match in re.finditer(rb"(?:\A|\n)(?:%b\n)*%b(?:\n|\Z)" % (separator, separator), block.data):
        if match.start() > start:
            yield line, block.data[start : match.start()]
        line += block.data.count(b"\n", start, match.end())
        start = match.end()
    if start < len(block.data):
        yield line, block.data[start:]


def _text_of_json(record: bytes, reading: Reading) -> str:
    try:
        value = json.loads(_decode(record, reading))
    except json.JSONDecodeError as error:
        raise _BadRecordError(f"not a JSON object: {error.msg} at character {error.pos + 1}.") from None
    except RecursionError:
        raise _BadRecordError("not a usable JSON object: nested too deeply.") from None
    if not isinstance(value, dict):
        raise _BadRecordError(f"not a JSON object but {_kind(value)}.")
    if reading.text_key not in value:
        keys = ", ".join(repr(key) for key in list(value)[:_KEYS_SHOWN]) or "none"
        raise _BadRecordError(f"no key {reading.text_key!r}; its keys are {keys}. Choose one with --text-key.")
    text = value[reading.text_key]
    if not isinstance(text, str):
        raise _BadRecordError(f"{reading.text_key!r} is not a text but {_kind(text)}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _BadRecordError(
            f"{reading.text_key!r} holds half a surrogate pair at character {error.start + 1}."
        ) from None
    return text


def _decode(record: bytes, _reading: Reading) -> str:
    if len(record) > _LARGEST_DOCUMENT:
        raise _BadRecordError(f"{len(record)} bytes; a document may have {_LARGEST_DOCUMENT}.")
    try:
        return record.decode()
    except UnicodeDecodeError as error:
        line = record.count(b"\n", 0, error.start)
        where = f" on line {line + 1} of the document" if line else ""
        raise _BadRecordError(
            f"not UTF-8: {error.reason} 0x{record[error.start]:02x} at byte {error.start + 1}{where}."
        ) from None


def _kind(value: object) -> str:
    if value is None:
        return "null"
    return {"list": "a list", "dict": "an object", "str": "a text", "bool": "a truth value"}.get(
        type(value).__name__, "a number"
    )
