"""Ragged arrays: list columns of Arrow tables as flat numpy arrays with offsets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.errors import DataError


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths: row i of `values` [total] is values[offsets[i]:offsets[i+1]]; offsets int64 [n+1]."""

    values: npt.NDArray[Any]
    offsets: npt.NDArray[np.int64]

    @classmethod
    def from_arrow(cls, column: pa.ChunkedArray | pa.ListArray) -> Ragged:
        """Convert a list column; zero-copy for a single chunk without nulls. A null row becomes an empty one."""
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if array.null_count:
            lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
            return cls.from_lengths(array.flatten().to_numpy(zero_copy_only=False), lengths)
        offsets = array.offsets.to_numpy().astype(np.int64)
        values = array.values.to_numpy(zero_copy_only=False)[offsets[0] : offsets[-1]]
        return cls(values, offsets - offsets[0])

    @classmethod
    def from_lengths(cls, values: npt.NDArray[Any], lengths: npt.ArrayLike) -> Ragged:
        """Build from flat values and row lengths."""
        offsets = np.zeros(len(np.atleast_1d(lengths)) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return cls(values, offsets)

    def to_arrow(self, value_type: pa.DataType) -> pa.ListArray:
        """Convert to a list array. Raises DataError for more values than an Arrow list column holds."""
        return pa.ListArray.from_arrays(list_offsets(self.offsets), pa.array(self.values, value_type))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> npt.NDArray[Any]:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        return np.diff(self.offsets)

    @cached_property
    def rows(self) -> npt.NDArray[np.int64]:
        """Row index of each value, [total]."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def filter(self, mask: npt.NDArray[np.bool_]) -> Ragged:
        """The values in mask [total]; every row stays, even if empty."""
        lengths = np.bincount(self.rows[mask], minlength=len(self))
        return Ragged.from_lengths(self.values[mask], lengths)

    def take(self, rows: npt.NDArray[np.int64]) -> Ragged:
        """The given rows in this order; rows may repeat."""
        chosen = Ragged.from_lengths(np.empty(0), self.lengths[rows])
        shift = np.repeat(self.offsets[rows] - chosen.offsets[:-1], chosen.lengths)
        return chosen.like(self.values[np.arange(chosen.offsets[-1]) + shift])

    def joined(self, other: Ragged) -> Ragged:
        """Append to each row the same row of `other`."""
        out = Ragged.from_lengths(np.empty(0), self.lengths + other.lengths)
        values = np.empty(out.offsets[-1], np.result_type(self.values, other.values))
        place = np.arange(len(values)) - out.offsets[:-1][out.rows] < self.lengths[out.rows]
        values[place], values[~place] = self.values, other.values
        return out.like(values)

    def tails(self, lengths: npt.NDArray[np.int64]) -> Ragged:
        """The last `lengths[row]` values of each row."""
        from_end = self.offsets[1:][self.rows] - np.arange(len(self.values))
        return self.filter(from_end <= lengths[self.rows])

    def like(self, values: npt.NDArray[Any]) -> Ragged:
        """Other values on the same rows."""
        return Ragged(values, self.offsets)


def list_offsets(offsets: npt.NDArray[np.int64]) -> pa.Int32Array:
    """Offsets of an Arrow list column (int32). Raises DataError for more values."""
    if offsets[-1] > np.iinfo(np.int32).max:
        raise DataError(
            f"a column of one shard would hold {int(offsets[-1]):,} values, more than the 2^31 - 1 that fit",
            where="data.shards",
            hint="give more shards",
        )
    return pa.array(offsets.astype(np.int32))
