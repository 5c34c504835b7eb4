"""Writes a file and reads it through `read_fragment`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from rayrec.config import FileSource
from rayrec.data.file_reader import read_fragment
from rayrec.data.input_files import FileFragment, InputFile
from rayrec.data.raw_rows import RawBatch
from rayrec.storage import Storage


def read_file(
    folder: Path,
    name: str,
    content: bytes,
    columns: tuple[str, ...] = ("u", "i"),
    needed: tuple[str, ...] | None = None,
    **source: object,
) -> RawBatch:
    """All rows of the file as one batch. `needed` None: all columns."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    kind = next(kind for kind in ("csv", "jsonl", "parquet") if f".{kind}" in name)
    piece = FileFragment(InputFile(0, name, len(content), "v", kind))
    settings = FileSource.model_validate({"path": name, **source})
    must = columns if needed is None else needed
    batches = list(read_fragment(Storage(str(folder)), piece, settings, columns, must))
    tables = [batch.table.select(columns) for batch in batches]
    empty = pa.table({column: pa.array([], pa.string()) for column in columns})
    return RawBatch(
        pa.concat_tables(tables, promote_options="permissive") if tables else empty,
        np.concatenate([np.zeros(0, np.int64), *(batch.row for batch in batches)]),
        tuple(row for batch in batches for row in batch.malformed),
        missing=batches[0].missing if batches else {},
    )


def rows_of(batch: RawBatch) -> list[tuple[object, ...]]:
    return list(zip(*(column.to_pylist() for column in batch.table.columns), strict=True))
