"""Tables of Parquet and Arrow (as `datasets` saves them to disk): their column of text, in blocks of rows.

Nothing but that column is read, and never more than a block of it is held: row groups may be as large as they like. A
block goes to whoever processes it as an Arrow stream of one column.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from glm_data.errors import BadRecordError, DataError
from glm_data.inputs import InputFile

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_ROWS = 1024
_BYTES_OF_ROWS = 4 << 20
"""Rows are read up to so many at a time, and fewer where they are long: what is read is held whole."""

_BUFFER = 1 << 20
_COLUMNS_SHOWN = 8
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


class Rows(NamedTuple):
    """Rows of a table: the number of the first, counted from 1, and their texts as an Arrow stream."""

    first: int
    data: bytes


def read_rows(file: InputFile, key: str, block_size: int) -> Iterator[Rows]:
    """Blocks of rows with about so many bytes of text each.

    Raises:
        BadRecordError: the table has no such column of text.
        DataError: the file is damaged or incomplete.
    """
    import pyarrow as pa

    first, pending, size, count = 1, [], 0, 0
    try:
        for batch in _parquet(file, key) if file.format == ".parquet" else _arrow(file, key):
            for part in _parts(batch, block_size):
                pending.append(part)
                size, count = size + part.nbytes, count + len(part)
                if size >= block_size:
                    yield Rows(first, _stream(pending))
                    first, pending, size, count = first + count, [], 0, 0
    except (pa.ArrowException, OSError, MemoryError) as error:
        reason = str(error).split("\n")[0].rstrip(".") or "its sizes are of more memory than there is"
        raise DataError(
            f"{file.place}: damaged or incomplete: {reason}. Fetch it again, or take it out of the input."
        ) from error
    if pending:
        yield Rows(first, _stream(pending))


def texts(data: bytes) -> list[str | BaseException]:
    """The text of every row of a block, or why it has none."""
    import pyarrow as pa

    return [_text(value) for value in pa.ipc.open_stream(data).read_all().column(0).to_pylist()]


def _text(value: bytes | None) -> str | BaseException:
    if value is None:
        return BadRecordError("the text is null.")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        return BadRecordError(f"not UTF-8: {error.reason} at byte {error.start + 1}.")


def _parquet(file: InputFile, key: str) -> Iterator[pa.Array]:
    import pyarrow.parquet as pq

    with file.opened() as source, pq.ParquetFile(source, buffer_size=_BUFFER, pre_buffer=False) as table:
        path = _path(table.schema_arrow, key)
        column = ".".join(path)
        for batch in table.iter_batches(_rows_at_a_time(table.metadata, column), columns=[column], use_threads=False):
            yield _column(batch, path)


def _rows_at_a_time(metadata: Any, column: str) -> int:
    """As many as have a few megabytes of text, by the longest of the averages of row groups."""
    longest = 1
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        parts = (group.column(index) for index in range(group.num_columns))
        size = sum(part.total_uncompressed_size for part in parts if part.path_in_schema == column)
        longest = max(longest, size // max(group.num_rows, 1))
    return min(max(_BYTES_OF_ROWS // longest, 1), _MOST_ROWS)


def _arrow(file: InputFile, key: str) -> Iterator[pa.Array]:
    """A stream, as `datasets` writes it, or a file with random access, as others do."""
    import pyarrow as pa

    with file.opened() as opened_file, pa.PythonFile(opened_file) as source:
        if source.read(6) == b"ARROW1":
            opened = pa.ipc.open_file(source)
            batches: Any = (opened.get_batch(number) for number in range(opened.num_record_batches))
        else:
            source.seek(max(source.size() - len(_END_OF_STREAM), 0))
            if source.read() != _END_OF_STREAM:
                raise pa.ArrowInvalid("the end of the stream is missing")
            source.seek(0)
            batches = opened = pa.ipc.open_stream(source)
        path = _path(opened.schema, key)
        for batch in batches:
            yield _column(batch, path)


def _path(schema: pa.Schema, key: str) -> list[str]:
    """Where the column is: of that name, or within a structure, by a dotted name."""
    import pyarrow as pa

    path = [key] if key in schema.names else key.split(".")
    fields, kind = list(schema), schema
    for depth, name in enumerate(path):
        kinds = {field.name: field.type for field in fields}
        if (times := sum(field.name == name for field in fields)) > 1:
            raise BadRecordError(f"the column {'.'.join(path[: depth + 1])!r} is there {times} times.")
        if name not in kinds:
            known = ", ".join(repr(".".join([*path[:depth], other])) for other in list(kinds)[:_COLUMNS_SHOWN])
            raise BadRecordError(f"no column {key!r}; its columns are {known or 'none'}. Choose one with --text-key.")
        kind = kinds[name]
        fields = list(kind) if pa.types.is_struct(kind) else []
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_binary,
             pa.types.is_large_binary)  # fmt: skip
    if not any(test(plain) for test in tests):
        raise BadRecordError(f"the column {key!r} is not of texts but of {kind}.")
    return path


def _column(batch: pa.RecordBatch, path: list[str]) -> pa.Array:
    """The texts of a batch as bytes, which may be no UTF-8. Raises ArrowException: the batch is damaged.

    What Arrow reads from a file may point anywhere, and nothing but a full validation may look there.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    column = batch.column(path[0])
    column.validate()
    column = pc.struct_field(column, path[1:]) if len(path) > 1 else column
    if not pa.types.is_dictionary(column.type):
        return _validated(column)
    indices = column.indices
    indices.validate(full=True)
    return pa.DictionaryArray.from_arrays(indices, _validated(column.dictionary)).dictionary_decode()


def _validated(texts: pa.Array) -> pa.Array:
    import pyarrow as pa

    # A view looks at nothing; as texts, a single one that is no UTF-8 would be damage of the whole.
    kinds = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}
    texts = texts.view(kinds.get(texts.type, texts.type))
    texts.validate(full=True)
    return texts


def _parts(column: pa.Array, block_size: int) -> Iterator[pa.Array]:
    """Rows in parts of no more than a block's bytes, as far as single rows allow."""
    # A slice knows the bytes of its own rows alone.
    pieces = -(-column.nbytes // block_size)
    step = max(len(column) // max(pieces, 1), 1)
    for start in range(0, len(column), step):
        yield column.slice(start, step)


def _stream(arrays: list[pa.Array]) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    joined = pa.table({"text": pa.chunked_array(arrays)})
    with pa.ipc.new_stream(sink, joined.schema) as writer:
        writer.write_table(joined)
    return sink.getvalue().to_pybytes()
