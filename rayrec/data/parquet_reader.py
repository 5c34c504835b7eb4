"""Reads parquet files: only the needed columns, row group by row group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayrec.data.raw_rows import MAX_BATCH_ROWS, RawBatch, check_columns
from rayrec.data.text_columns import plain
from rayrec.errors import DataError
from rayrec.storage import Storage

MAX_ROWS_PER_BYTE = 1_000
"""Rows of a parquet file per byte of it, above the first million. Constant columns take almost no bytes, ids do."""

MAX_COLUMN_CHUNK_BYTES = 1 << 30  # of a column in a row group, uncompressed; writers make a tenth of it
_ALWAYS_ALLOWED_ROWS = 1_000_000
_MAX_BATCH_BYTES = 64 << 20  # of the text of a batch, written out row by row


def row_group_sizes(storage: Storage, path: str) -> list[tuple[int, int]]:
    """(compressed bytes, rows) of each row group, from the footer."""
    with _opened(storage, path) as file:
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        return [(sum(g.column(c).total_compressed_size for c in range(g.num_columns)), g.num_rows) for g in groups]


def read(
    storage: Storage,
    path: str,
    columns: Sequence[str],
    needed: Sequence[str],
    row_groups: Sequence[int] | None,
    first_row: int,
) -> Iterator[RawBatch]:
    """Read row groups as batches of those `columns` that the file has.

    Raises DataError for `needed` columns that are missing, for columns of lists and structures, for a file that decodes
    to far more than it holds, and for a damaged or non-parquet file.
    """
    where = storage.url(path)
    with _opened(storage, path) as file:
        schema = file.schema_arrow
        missing = check_columns(schema.names, columns, needed, where)
        columns = [name for name in columns if name not in missing]
        for name in columns:
            _check_type(schema.field(name), where)
        _check_size(file.metadata, columns, storage.info(path).size, where)
        texts = [name for name in columns if _is_text(schema.field(name).type)]
        widest = max([1, *(_width(schema.field(name).type) for name in columns)])
    with _opened(storage, path, texts, file.metadata) as file:
        next_row = first_row
        groups = range(file.metadata.num_row_groups) if row_groups is None else row_groups
        batch_rows = max(1, min(MAX_BATCH_ROWS, _MAX_BATCH_BYTES // widest))
        for batch in file.iter_batches(batch_rows, row_groups=list(groups), columns=list(columns)):
            for part in _bounded(batch):
                rows = np.arange(next_row, next_row + part.num_rows, dtype=np.int64)
                next_row += part.num_rows
                yield RawBatch(_filterable(pa.Table.from_batches([part])), rows, missing=missing)


def _filterable(table: pa.Table) -> pa.Table:
    """Without views and run ends, whose rows Arrow cannot select."""
    for at, field in enumerate(table.schema):
        kind = field.type
        if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind) or pa.types.is_run_end_encoded(kind):
            table = table.set_column(at, field.name, plain(table.column(at)))
    return table


def _check_type(column: pa.Field, where: str) -> None:
    # Before anything is decoded: a list of a few bytes may hold billions of values.
    if pa.types.is_nested(column.type):
        raise DataError(
            f"the column {column.name!r} holds {column.type}, not text or numbers",
            where=where,
            hint="name another column",
        )


def _check_size(metadata: pq.FileMetaData, columns: Sequence[str], size: int, where: str) -> None:
    if metadata.num_rows > _ALWAYS_ALLOWED_ROWS + MAX_ROWS_PER_BYTE * size:
        raise DataError(
            f"the file says that its {size:,} bytes hold {metadata.num_rows:,} rows: it is damaged, or made to fill "
            "the memory",
            where=where,
            hint="remove it from the folder, or write it again",
        )
    wanted = set(columns)
    for group in range(metadata.num_row_groups):
        chunks = [metadata.row_group(group).column(chunk) for chunk in range(metadata.num_columns)]
        for chunk in chunks:
            if chunk.path_in_schema in wanted and chunk.total_uncompressed_size > MAX_COLUMN_CHUNK_BYTES:
                raise DataError(
                    f"the column {chunk.path_in_schema!r} of row group {group} has "
                    f"{chunk.total_uncompressed_size:,} bytes; at most {MAX_COLUMN_CHUNK_BYTES:,} can be read",
                    where=where,
                    hint="write the file with smaller row groups",
                )


def _bounded(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Parts of the batch whose text is of bounded size, also where a dictionary makes many rows of a few bytes."""
    texts = [each for each in batch.columns if pa.types.is_dictionary(each.type) and _is_text(each.type.value_type)]
    lengths_of = [pc.binary_length(column.dictionary).fill_null(0) for column in texts]
    if batch.num_rows * sum(pc.max(lengths).as_py() or 0 for lengths in lengths_of) <= _MAX_BATCH_BYTES:
        yield batch
        return
    bytes_of_row = np.zeros(batch.num_rows, np.int64)
    for column, lengths in zip(texts, lengths_of, strict=True):
        codes = column.indices.cast(pa.int64()).fill_null(len(lengths)).to_numpy(zero_copy_only=False)
        bytes_of_row += np.append(lengths.to_numpy(zero_copy_only=False), 0)[codes]
    before = np.cumsum(bytes_of_row)
    if before[-1] <= _MAX_BATCH_BYTES:
        yield batch
        return
    start = 0
    while start < batch.num_rows:
        used = before[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(before, used + _MAX_BATCH_BYTES, side="right")))
        yield batch.slice(start, end - start)
        start = end


def _is_text(kind: pa.DataType) -> bool:
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(test(kind) for test in texts)


def _width(kind: pa.DataType) -> int:
    return int(kind.byte_width) if pa.types.is_fixed_size_binary(kind) else 16


@contextmanager
def _opened(
    storage: Storage, path: str, texts: Sequence[str] = (), metadata: pq.FileMetaData | None = None
) -> Iterator[pq.ParquetFile]:
    # Text is validated by its distinct values, so read dictionary-encoded columns as dictionaries.
    with storage.open(path) as handle:
        try:
            with pq.ParquetFile(handle, metadata=metadata, read_dictionary=list(texts)) as file:
                yield file
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"cannot be read as parquet: {str(error).splitlines()[0]}",
                where=storage.url(path),
                hint="the file is damaged or of another format: rewrite it, or remove it from the folder",
            ) from error
