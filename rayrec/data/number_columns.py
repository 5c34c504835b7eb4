"""Numbers out of text, without one bad value costing the column."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import regex_patterns

_NUMBER = r"(?i)^[+-]?(?:\d+\.?\d*(?:e[+-]?\d{1,4})?|\.\d+(?:e[+-]?\d{1,4})?|nan|inf|infinity)$"


def floats(text: pa.Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """float64 [n] (NaN where there is no finite number) and what is wrong, bool [n].

    Empty and null are no number and nothing wrong; words, NaN and infinities are wrong.
    """
    text = pc.utf8_trim_whitespace(text)
    text = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    absent = text.is_null().to_numpy(zero_copy_only=False)
    try:
        numbers = text.cast(pa.float64())
    except pa.ArrowInvalid:
        numbers = pc.if_else(regex_patterns.matches(text, _NUMBER), text, pa.scalar(None, pa.string())).cast(
            pa.float64()
        )
    return _finite(numbers, absent)


def typed_floats(column: pa.Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """The same of a numeric or boolean column."""
    numbers = column.cast(pa.int8()) if pa.types.is_boolean(column.type) else column
    return _finite(numbers.cast(pa.float64(), safe=False), column.is_null().to_numpy(zero_copy_only=False))


def _finite(numbers: pa.Array, absent: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    values: npt.NDArray[Any] = numbers.fill_null(np.nan).to_numpy(zero_copy_only=False)
    finite = np.isfinite(values)
    return np.where(finite, values, np.nan), ~finite & ~absent
