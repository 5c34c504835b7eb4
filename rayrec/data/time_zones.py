"""Time zones where Arrow finds no database of them.

Arrow reads that of the operating system only (`/usr/share/zoneinfo`), which slim images lack; Python and pandas also
read the package `tzdata`. Without either, `rayrec.config` refuses to start.
"""

from __future__ import annotations

from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc


def to_utc(micros: npt.NDArray[np.int64], timezone: str) -> npt.NDArray[np.int64]:
    """Local times, microseconds [n], as UTC. Ambiguous ones are the earlier; of a gap, its last moment before."""
    try:
        aware = pc.assume_timezone(
            pa.array(micros, pa.timestamp("us")), timezone, ambiguous="earliest", nonexistent="earliest"
        )
    except pa.ArrowInvalid:
        return to_utc_by_pandas(micros, timezone)
    return np.asarray(aware.cast(pa.int64()).to_numpy(zero_copy_only=False))


def to_utc_by_pandas(micros: npt.NDArray[np.int64], timezone: str) -> npt.NDArray[np.int64]:
    """As `to_utc`, by Python's database: the same but for days that a zone left out (Samoa 2011), and after 2037."""
    naive = pd.DatetimeIndex(micros.astype("datetime64[us]"))
    earlier = np.ones(len(naive), np.bool_)
    aware = naive.tz_localize(ZoneInfo(timezone), ambiguous=earlier, nonexistent="shift_backward")
    return np.asarray(aware.as_unit("us").asi8)


def as_text(times: pa.Array) -> pa.Array:
    """Times as text; those with a zone in UTC where Arrow does not know it."""
    try:
        return times.cast(pa.string())
    except pa.ArrowInvalid:
        return pc.binary_join_element_wise(without_zone(times).cast(pa.string()), "Z", "")


def without_zone(times: pa.Array) -> pa.Array:
    """Timestamps as they are in UTC, without a zone, so that Arrow needs no database for their days and hours."""
    if not pa.types.is_timestamp(times.type) or times.type.tz is None:
        return times
    return times.cast(pa.int64()).cast(pa.timestamp(times.type.unit))
