"""Arrow tables as files of a Storage: Arrow IPC with lz4 for intermediate tables, parquet with zstd for the rest."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayrec.storage import Storage

IPC_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


def write_arrow(storage: Storage, path: str, table: pa.Table) -> None:
    with storage.writer(path) as file, pa.ipc.new_file(file, table.schema, options=IPC_OPTIONS) as writer:
        writer.write_table(table)


def read_arrow(storage: Storage, path: str, *, without: Collection[str] = ()) -> pa.Table:
    """Read an Arrow IPC file, `without` these columns. Raises MissingFileError, and Arrow's errors for another kind of
    file."""
    with storage.open(path) as file, pa.ipc.open_file(file) as reader:
        fields = [number for number, name in enumerate(reader.schema.names) if name not in without]
        if len(fields) == len(reader.schema):
            return reader.read_all()
        with pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=fields)) as some:
            return some.read_all()


def write_parquet(storage: Storage, path: str, table: pa.Table) -> None:
    with storage.writer(path) as file:
        pq.write_table(table, file, compression="zstd")


def rows_without(table: pa.Table, removed: npt.NDArray[np.bool_]) -> pa.Table:
    """The rows that are not in `removed` [n], with dictionaries of their values only: a filtered column keeps its
    whole dictionary, and so would a file of it."""
    left = table.filter(pa.array(~removed)).combine_chunks()
    for place, field in enumerate(left.schema):
        if pa.types.is_dictionary(field.type):
            plain = left.column(place).cast(field.type.value_type)
            left = left.set_column(place, field, pc.dictionary_encode(plain).cast(field.type))
    return left.replace_schema_metadata(table.schema.metadata)


def read_parquet(
    storage: Storage, path: str, schema: pa.Schema | None = None, columns: Sequence[str] | None = None
) -> pa.Table:
    """Read a parquet file. Raises MissingFileError, and Arrow's errors for another kind of file or another schema."""
    with storage.open(path) as file:
        return pq.read_table(file, columns=columns, schema=schema, partitioning=None)
