"""Reads parquet files: only the needed columns, row group by row group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rayrec.data.raw_rows import RawBatch, require_columns
from rayrec.data.text_columns import plain
from rayrec.errors import DataError
from rayrec.storage import Storage

_BATCH_ROWS = 1 << 18


def row_group_sizes(storage: Storage, path: str) -> list[tuple[int, int]]:
    """(compressed bytes, rows) of each row group, from the footer."""
    with _opened(storage, path) as file:
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        return [(sum(g.column(c).total_compressed_size for c in range(g.num_columns)), g.num_rows) for g in groups]


def read(
    storage: Storage, path: str, columns: Sequence[str], row_groups: Sequence[int] | None, first_row: int
) -> Iterator[RawBatch]:
    """Read row groups as batches. Raises DataError for a missing column, and for a damaged or non-parquet file."""
    with _opened(storage, path) as file:
        schema = file.schema_arrow
        require_columns(schema.names, columns, storage.url(path))
        texts = [name for name in columns if _is_text(schema.field(name).type)]
    with _opened(storage, path, texts, file.metadata) as file:
        next_row = first_row
        groups = range(file.metadata.num_row_groups) if row_groups is None else row_groups
        for batch in file.iter_batches(_BATCH_ROWS, row_groups=list(groups), columns=list(columns)):
            rows = np.arange(next_row, next_row + batch.num_rows, dtype=np.int64)
            next_row += batch.num_rows
            yield RawBatch(_filterable(pa.Table.from_batches([batch])), rows)


def _filterable(table: pa.Table) -> pa.Table:
    """Without views and run ends, whose rows Arrow cannot select."""
    for at, field in enumerate(table.schema):
        kind = field.type
        if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind) or pa.types.is_run_end_encoded(kind):
            table = table.set_column(at, field.name, plain(table.column(at)))
    return table


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


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
