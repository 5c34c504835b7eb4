"""Reads a file of user ids by the rules of all input tables: the same reader, the same ids, the same nulls."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import FileSource
from rayrec.data.file_reader import read_fragment
from rayrec.data.input_files import FileFragment, InputFile, format_of_name
from rayrec.data.raw_rows import RawBatch
from rayrec.data.row_validation import RowValidation
from rayrec.data.schemas import ALL_USERS
from rayrec.errors import DataError
from rayrec.storage import Storage
from rayrec.storage_url import check_url


def read_user_ids(path: str, column: str = "user_id") -> pa.StringArray:
    """The distinct ids in a column of a file, as in interactions; rows without an id are skipped.

    `path`: a file or an fsspec URL, its format by its suffix, else CSV with a header. Raises DataError for an
    unreadable file, column, row or id (no user may be skipped silently), MissingFileError for a missing file.
    """
    check_url(path, "--users")
    folder, _, name = path.rpartition("/")
    storage = Storage(folder if folder or not path.startswith("/") else "/")
    info, where = storage.info(name), storage.url(name)
    file = InputFile(0, name, info.size, info.version, format_of_name(name) or "csv")
    batches = read_fragment(storage, FileFragment(file), FileSource(path=name), [column], [column])
    ids = [_ids(batch, column, where) for batch in batches]
    if not info.size:
        raise DataError("the users cannot be read: the file is empty", where=where, hint="give a file with a header")
    return pc.unique(pa.concat_arrays([pa.array([], pa.string()), *ids]))


def _ids(batch: RawBatch, column: str, where: str) -> pa.StringArray:
    rows = RowValidation(batch, where, where)
    ids = rows.ids(column)
    rows.reject_invalid_ids(ids, column)
    rows.flag(ids.where(lambda values: pc.equal(values, ALL_USERS)), "reserved_user", column)
    bad = rows.quarantine(ids.only(np.zeros(len(ids), np.bool_)))
    if bad.num_rows:
        first = bad.sort_by("row").slice(0, 1).to_pylist()[0]
        raise DataError(
            f"row {first['row']} cannot be read as a user: {first['reason']}, {first['detail']}",
            where=where,
            hint="correct or remove the row; nothing was changed",
        )
    return ids.values
