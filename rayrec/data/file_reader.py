"""Reads a fragment of an input file, in any format, as batches of raw rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from rayrec.config import FileSource
from rayrec.data import parquet_reader
from rayrec.data.csv_reader import read_csv
from rayrec.data.delimited_reader import read_delimited
from rayrec.data.input_files import FileFragment
from rayrec.data.json_reader import read_json
from rayrec.data.raw_rows import RawBatch
from rayrec.data.source_paths import partition_columns
from rayrec.data.text_stream import open_text
from rayrec.errors import DataError
from rayrec.storage import Storage

_MAX_MALFORMED = 300_000  # rows of one file, if nearly all are: quarantine would take long, and tell nothing more


def read_fragment(
    storage: Storage, fragment: FileFragment, source: FileSource, columns: Sequence[str], needed: Sequence[str]
) -> Iterator[RawBatch]:
    """Read batches with at least `columns`, in row order. Columns that the file lacks are null, unless `needed`.

    Folders named `key=value` are columns; they replace columns of the file with the same name. Raises DataError for an
    unreadable file; rows that cannot be split into fields are `malformed`.
    """
    path = fragment.file.path
    folders = {key: value for key, value in partition_columns(path).items() if key in columns}
    inside = [name for name in columns if name not in folders]
    must = [name for name in needed if name not in folders]
    if fragment.file.format == "parquet":
        batches = parquet_reader.read(storage, path, inside, must, fragment.row_groups, fragment.first_row)
    else:
        batches = _text_rows(storage, fragment, source, inside, must)
    for batch in _with_usable_rows(batches, storage.url(path)):
        table = batch.table.drop_columns([key for key in folders if key in batch.table.column_names])
        for key, value in folders.items():
            table = table.append_column(key, pa.repeat(pa.scalar(value, pa.string()), table.num_rows))
        for name in batch.missing:
            table = table.append_column(name, pa.nulls(table.num_rows, pa.string()))
        not_plain = {column: rows for column, rows in batch.not_plain.items() if column not in folders}
        yield RawBatch(table, batch.row, batch.malformed, batch.raw, batch.missing, not_plain)


def _with_usable_rows(batches: Iterator[RawBatch], where: str) -> Iterator[RawBatch]:
    """The batches. Raises DataError for a long file of which nearly nothing can be split into fields."""
    rows = malformed = 0
    for batch in batches:
        rows += len(batch.row) + len(batch.malformed)
        malformed += len(batch.malformed)
        if malformed > _MAX_MALFORMED and malformed > 0.9 * rows:
            first = batch.malformed[0]
            raise DataError(
                f"{malformed:,} of the first {rows:,} rows cannot be split into fields, such as row {first.row:,}: "
                f"{first.detail}",
                where=where,
                hint="set the source's format, delimiter or quote, or remove the file from the folder",
            )
        yield batch


def _text_rows(
    storage: Storage, fragment: FileFragment, source: FileSource, columns: Sequence[str], needed: Sequence[str]
) -> Iterator[RawBatch]:
    where = storage.url(fragment.file.path)
    with open_text(storage, fragment.file.path, source.encoding) as stream:
        try:
            if fragment.file.format == "jsonl":
                yield from read_json(stream, columns, needed, where)
            elif len(source.delimiter) == 1 and source.delimiter.isascii():
                yield from read_csv(stream, source, columns, needed, where)
            else:
                yield from read_delimited(stream, source, columns, needed, where)
        except (pa.ArrowException, OSError, UnicodeError) as error:
            raise DataError(
                f"cannot be read as {fragment.file.format}: {str(error).splitlines()[0]}",
                where=where,
                hint=f"rewrite it as {fragment.file.format}, set the source's format or delimiter, or remove the file "
                "from the folder",
            ) from error
