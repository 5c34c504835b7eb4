"""Flat values with offsets, and the Arrow columns that they become."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from rayrec.errors import DataError
from rayrec.numerics.ragged import Ragged, list_offsets


def test_rows_come_back_from_arrow_as_they_went() -> None:
    rows = Ragged.from_lengths(np.arange(6), [2, 0, 3, 1])
    column = rows.to_arrow(pa.int32())
    assert column.to_pylist() == [[0, 1], [], [2, 3, 4], [5]]
    back = Ragged.from_arrow(column)
    np.testing.assert_array_equal(back.values, rows.values)
    np.testing.assert_array_equal(back.offsets, rows.offsets)


def test_more_values_than_a_column_can_count_are_refused() -> None:
    """The offsets would wrap to negative numbers: without values here, for they alone would take 8 GB."""
    most = np.iinfo(np.int32).max
    assert list_offsets(np.array([0, most])).to_pylist() == [0, most]
    too_many = Ragged(np.empty(0, np.float32), np.array([0, most, most + 1]))
    with pytest.raises(DataError, match="give more shards"):
        too_many.to_arrow(pa.float32())
