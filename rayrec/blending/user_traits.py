"""What a user's kept history says of the user, for the blend: how long it is, how old, how fond of what is new."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.numerics.ragged import Ragged

NAMES = ("events", "silence", "fresh")
_NEVER = 999.0  # days of silence of a user without history
_FRESH_DAYS = 14.0


def user_features(table: pa.Table, log_age: npt.NDArray[np.float32], cutoff: int) -> npt.NDArray[np.float32]:
    """[users, len(NAMES)] of candidate_schema rows; `log_age` [items] is log(1 + days since the item's first event).

    events: log(1 + kept events); silence: log(1 + days since the newest); fresh: the mean of exp(-age / 14 days), the
    item's age when the user took it. Times before `cut`, microseconds UTC.
    """
    item, ts = Ragged.from_arrow(table["item"]), Ragged.from_arrow(table["ts"])
    age = (cutoff - ts.values) / MICROSECONDS_PER_DAY
    count = item.lengths
    silence = np.full(len(count), _NEVER)
    some = np.flatnonzero(count)
    if len(some):
        silence[some] = np.minimum.reduceat(age, item.offsets[some])
    young = np.exp(-np.maximum(np.expm1(log_age[item.values].astype(np.float64)) - age, 0) / _FRESH_DAYS)
    fresh = np.bincount(item.rows, young, minlength=len(count)) / np.maximum(count, 1)
    return np.stack([np.log1p(count), np.log1p(np.maximum(silence, 0)), fresh], axis=1).astype(np.float32)
