"""A file of user ids, such as those of an erasure request: CSV with a header, or parquet."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from rayrec.data.raw_rows import require_columns
from rayrec.data.text_columns import as_text
from rayrec.errors import DataError
from rayrec.storage import Storage


def read_user_ids(path: str, column: str = "user_id") -> pa.StringArray:
    """The distinct ids in `column`, as the contract of interactions reads ids; empty ones are left out.

    `path`: a file or an fsspec URL; `.parquet`, else CSV. Raises DataError for a file or a column that cannot be read,
    MissingFileError where there is none.
    """
    folder, _, name = path.rpartition("/")
    storage = Storage(folder if folder or not path.startswith("/") else "/")
    where = storage.url(name)
    with storage.open(name) as file:
        try:
            table = pq.read_table(file) if name.endswith(".parquet") else _csv(file.read(), column)
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"the users cannot be read: {error}", where=where, hint="give a CSV file with a header, or parquet"
            ) from None
    require_columns(table.column_names, [column], where)
    return as_text(table[column], column, where).values


def _csv(data: bytes, column: str) -> pa.Table:
    options = pa_csv.ConvertOptions(column_types={column: pa.string()}, strings_can_be_null=True)
    return pa_csv.read_csv(pa.BufferReader(data), convert_options=options)
