"""Batches of raw rows as the file readers yield them, each row with its number in the file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.errors import DataError

MAX_ROW_BYTES = 16 << 20  # a longer row means an unclosed quote or another format
UNDECODABLE = "�"  # replaces bytes that are invalid in the declared encoding
MAX_RAW_CHARS = 4096  # of a row in quarantine


class Malformed(NamedTuple):
    """A row that cannot be split into its fields."""

    row: int  # 1-based data row within the file
    detail: str
    raw: str


@dataclass(frozen=True)
class RawBatch:
    """Unvalidated rows: strings from text formats, typed columns from parquet."""

    table: pa.Table
    row: npt.NDArray[np.int64]  # [n], 1-based data row within the file; headers and blank lines do not count
    malformed: tuple[Malformed, ...] = ()
    raw: pa.Array | None = None  # string [n]: the JSON lines; None for other formats

    def filter(self, mask: npt.NDArray[np.bool_]) -> RawBatch:
        """The rows in mask [n], and all malformed rows."""
        selected = pa.array(mask)
        raw = None if self.raw is None else self.raw.filter(selected)
        return RawBatch(self.table.filter(selected), self.row[mask], self.malformed, raw)


def require_columns(present: Sequence[str], needed: Iterable[str], where: str) -> None:
    """Raise DataError, with the nearest name, for needed columns that are missing or duplicated."""
    for column in needed:
        count = sum(name == column for name in present)
        if count == 1:
            continue
        listed = ", ".join(repr(name[:60]) for name in present[:30]) + (", ..." if len(present) > 30 else "")
        if count > 1:
            raise DataError(f"the column {column!r} occurs {count} times: {listed}", where=where, hint="rename one")
        if "\0" in listed or "\\x00" in listed or "�" in listed:
            raise DataError(
                f"the header is not text in the given encoding: {listed}", where=where, hint="set the source's encoding"
            )
        near = difflib.get_close_matches(column, present, n=1)
        do = (
            f"did you mean {near[0]!r}? Correct the column in the config" if near else "correct the column or delimiter"
        )
        raise DataError(f"there is no column {column!r}; the columns are {listed or 'none'}", where=where, hint=do)
