"""Streams lines whose fields are separated by several characters, or by one outside ASCII. Quotes mean nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import FileSource
from rayrec.data.csv_reader import NULL
from rayrec.data.raw_rows import MAX_RAW_CHARS, Malformed, RawBatch, check_columns, cleaned_names
from rayrec.data.text_stream import TextStream, blocks_of_lines
from rayrec.errors import DataError


def read_delimited(
    stream: TextStream, source: FileSource, columns: Sequence[str], needed: Sequence[str], where: str
) -> Iterator[RawBatch]:
    """Read all columns as strings.

    Raises DataError for `needed` columns that are missing, `columns` that occur twice, and for too long lines.
    """
    names: Sequence[str] = source.names
    missing: dict[str, DataError] | None = None
    next_row = 1
    for lines in blocks_of_lines(stream, where):
        if not names:
            names, lines = cleaned_names(lines[0].split(source.delimiter), columns), lines[1:]
        if missing is None:
            missing = check_columns(names, columns, needed, where)
        rows = np.arange(next_row, next_row + len(lines), dtype=np.int64)
        next_row += len(lines)
        yield _split(lines, rows, names, source.delimiter, missing)


def _split(
    lines: list[str], rows: npt.NDArray[np.int64], names: Sequence[str], delimiter: str, missing: dict[str, DataError]
) -> RawBatch:
    parts = pc.split_pattern(pa.array(lines, pa.string()), delimiter)
    fields = parts.value_lengths().to_numpy(zero_copy_only=False)
    good = fields == len(names)
    malformed = tuple(
        Malformed(int(rows[i]), f"{fields[i]} fields where the others have {len(names)}", lines[i][:MAX_RAW_CHARS])
        for i in np.flatnonzero(~good)
    )
    flat = parts.filter(pa.array(good)).flatten()
    flat = pc.if_else(pc.equal(flat, NULL), pa.scalar(None, pa.string()), flat)
    first = np.arange(int(good.sum())) * len(names)
    table = pa.table([flat.take(pa.array(first + field)) for field in range(len(names))], names=list(names))
    return RawBatch(table, rows[good], malformed, missing=missing)
