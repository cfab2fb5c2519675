"""Reading text: the blocks of records of a file, and the documents within a block.

Files are read in blocks of about a megabyte that end at the end of a record. The blocks are the same whoever
processes them, which makes the work parallel and the result independent of the number of workers.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from glm_data.compression import DAMAGE, describe, open_text
from glm_data.errors import BadRecordError, DataError
from glm_data.foreign import what_else
from glm_data.inputs import LINES, TABLES, InputFile, OnBad
from glm_data.json_lines import TextKey
from glm_data.separators import Separator
from glm_data.tables import read_rows, texts

BLOCK_SIZE = 1 << 20  # bytes
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LARGEST_DOCUMENT = (1 << 32) - 1  # bytes; lengths are stored in 32 bits


@dataclass(frozen=True)
class Reading:
    """How documents are found in files.

    Attributes:
        text_key: of the objects in files of JSON lines, and the column of tables; "a.b" is the b within an a.
        document_separator: a line of .txt files that separates documents ("" is a blank line), see
            `glm_data.separators`; None takes each file as one document.
        on_bad_record: "stop" at what cannot be read, or "skip" and count it.
    """

    text_key: str = "text"
    document_separator: str | None = None
    on_bad_record: OnBad = "stop"

    @property
    def separator(self) -> Separator | None:
        """The separating line of .txt files. Raises DataError if it cannot be one."""
        return None if self.document_separator is None else Separator(self.document_separator)


@dataclass(frozen=True)
class Block:
    """Some whole records of one file.

    Attributes:
        file: its name, see `InputFile`.
        place: its name for messages.
        format: of the file.
        first_line: number of the line, or of the row, on which the block begins.
        data: the records; of a table see `glm_data.tables`.
        problem: why the file is not read at all.
    """

    file: str
    place: str
    format: str
    first_line: int
    data: bytes
    problem: str = ""


@dataclass
class Documents:
    """The documents of a block, with the line each of them begins on, and what was left out.

    `separators` counts the separating lines, `nul` the documents that hold a NUL character.
    """

    texts: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    empty: int = 0
    bad: list[str] = field(default_factory=list)
    separators: int = 0
    nul: int = 0

    def add(self, line: int, text: str) -> None:
        """Take the text of a record on this line, or count the record as empty."""
        if text.strip():
            self.lines.append(line)
            self.texts.append(text)
            self.nul += "\0" in text
        else:
            self.empty += 1


def read_blocks(file: InputFile, reading: Reading) -> Iterator[Block]:
    """Cut a file into blocks of whole records. An empty file has none.

    Raises:
        DataError: the file cannot be read, or its compression is damaged.
    """
    if file.format in TABLES:
        yield from _blocks_of_rows(file, reading)
        return
    last_end = _last_line_end if file.format in LINES else _last_separator_end(reading)
    line = 1
    try:
        with open_text(file.opened(), file.compression, BLOCK_SIZE) as stream:
            for data in _cut(stream, last_end):
                if line == 1 and (problem := what_else(data)):
                    yield Block(file.name, file.place, file.format, line, b"", problem)
                    return
                content = data.removeprefix(_BYTE_ORDER_MARK) if line == 1 else data
                yield Block(file.name, file.place, file.format, line, content)
                line += data.count(b"\n")
    except DAMAGE as error:
        reason = describe(error, file.compression)
        raise DataError(f"{file.place}: {reason}. Mend it or take it out of the input.") from error


def _blocks_of_rows(file: InputFile, reading: Reading) -> Iterator[Block]:
    try:
        for rows in read_rows(file, reading.text_key, BLOCK_SIZE):
            yield Block(file.name, file.place, file.format, rows.first, rows.data)
    except BadRecordError as error:
        yield Block(file.name, file.place, file.format, 1, b"", str(error))


LastEnd = Callable[[bytes], int]
"""Where the last record that ends within some data does; −1 if none does."""


def _last_line_end(data: bytes) -> int:
    return data.rfind(b"\n") + 1 or -1


def _last_separator_end(reading: Reading) -> LastEnd | None:
    separator = reading.separator
    return None if separator is None else separator.last_end


def _cut(stream: io.BufferedIOBase, last_end: LastEnd | None) -> Iterator[bytes]:
    """Blocks of at least `BLOCK_SIZE` that end with a record; one block if `last_end` is None."""
    pending = io.BytesIO()
    searched = 0  # what ends in front of the line feed here has been looked at
    while chunk := stream.read(BLOCK_SIZE):
        pending.write(chunk)
        if last_end is None or pending.tell() < BLOCK_SIZE or b"\n" not in chunk:
            continue
        with pending.getbuffer() as content:
            end = last_end(content[searched:].tobytes())
            if end < 0:
                searched = content.nbytes - len(chunk) + chunk.rfind(b"\n")
                continue
            # A record may be most of the memory there is: nothing but the block is left of it here.
            data, rest = content[: searched + end].tobytes(), content[searched + end :].tobytes()
        pending = io.BytesIO()
        pending.write(rest)
        searched = 0
        yield data
        del data
    if pending.tell():
        yield pending.getvalue()


def parse(block: Block, reading: Reading) -> Documents:
    """The documents of a block.

    Raises:
        DataError: a record cannot be read and `reading.on_bad_record` is "stop"; names file and line.
    """
    documents = Documents()
    if block.problem:
        _leave_out(documents, f"{block.place}: {block.problem}", reading)
        return documents
    if block.format in TABLES:
        _add_rows(documents, block, reading)
        return documents
    key = TextKey(reading.text_key) if block.format in LINES else None
    records: Records
    if key:
        records = _json_records(block)
    else:
        records, documents.separators = _text_records(block, reading)
    for line, record in records:
        try:
            text = _decode(record)
            documents.add(line, key.text_of(text) if key else text)
        except BadRecordError as error:
            _leave_out(documents, f"{block.place}:{line}: {error}", reading)
    return documents


def _add_rows(documents: Documents, block: Block, reading: Reading) -> None:
    for row, text in enumerate(texts(block.data), start=block.first_line):
        if isinstance(text, str):
            documents.add(row, text)
        else:
            _leave_out(documents, f"{block.place}:{row}: {text}", reading)


def _leave_out(documents: Documents, message: str, reading: Reading) -> None:
    if reading.on_bad_record == "stop":
        raise DataError(f"{message} Mend it, or leave such records out with --on-bad-record skip.") from None
    documents.bad.append(message)


Record = bytes | memoryview
Records = Iterable[tuple[int, Record]]


def _json_records(block: Block) -> Iterator[tuple[int, Record]]:
    """Lines that are not blank. They are not copied: one may be most of the memory there is."""
    data, begin, line = block.data, 0, block.first_line
    view = memoryview(data)
    while begin < len(data):
        end = data.find(b"\n", begin)
        end = len(data) if end < 0 else end
        if data[begin : min(begin + 8, end)].strip() or data[begin:end].strip():
            yield line, view[begin:end]
        begin, line = end + 1, line + 1


def _text_records(block: Block, reading: Reading) -> tuple[Records, int]:
    """The documents of a text and the number of its separating lines."""
    separator = reading.separator
    if separator is None:
        return [(block.first_line, block.data)], 0
    pieces, separators = separator.split(block.data)
    return [(block.first_line + piece.line, piece.content) for piece in pieces], separators


def _decode(record: Record) -> str:
    if len(record) > _LARGEST_DOCUMENT:
        raise BadRecordError(f"{len(record)} bytes; a document may have {_LARGEST_DOCUMENT}.")
    try:
        return str(record, "utf-8")
    except UnicodeDecodeError as error:
        line = bytes(record[: error.start]).count(b"\n")
        where = f" on line {line + 1} of the document" if line else ""
        raise BadRecordError(
            f"not UTF-8: {error.reason} 0x{record[error.start]:02x} at byte {error.start + 1}{where}."
        ) from None
