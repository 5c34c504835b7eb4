"""Item statistics at the scored date, independent of the user: features of the blender.

Logs of popularity decayed at several half-lives (weighting them is learning a half-life), item age and freshness, and
whether an item is new: without any event. What is known of a new item is its launch: one that launches tomorrow is sold
for most of the horizon, and one that launched long ago and has not been sold will hardly be.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.retrieval.fit_data import FitData

HALF_LIVES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 64.0)  # days
NAMES = (
    *(f"log_decayed_{days:g}d" for days in HALF_LIVES),
    "log_count",
    "log_age",
    "log_last",
    "new",
    "log_until_launch",
    "log_unsold",
)
_ONE_EVENT = 0.2  # added before the logarithm, in events
_NEVER = 999.0  # days: age and last event of an item without events


def item_statistics(data: FitData) -> npt.NDArray[np.float32]:
    """[items, len(NAMES)]: logs of the decayed counts, of count + 1, and of days + 1 since the first and last event;
    of items without events: 1, and logs of days + 1 until their launch and since it, 0 where it is unknown."""
    items = data.matrix.shape[1]
    age = data.age_days
    decayed = [np.bincount(data.item, np.exp2(-age / days), minlength=items) for days in HALF_LIVES]
    first, last = np.zeros(items), np.full(items, _NEVER)
    np.maximum.at(first, data.item, age)
    np.minimum.at(last, data.item, age)
    first[last == _NEVER] = _NEVER
    until = np.zeros(items)
    if data.catalogue is not None:
        launch = data.catalogue["available_from"].cast("int64").to_numpy()  # NaN: unknown
        until = np.nan_to_num((launch - data.cutoff) / MICROSECONDS_PER_DAY)
    columns = [
        *(np.log(count + _ONE_EVENT) for count in decayed),
        np.log1p(np.bincount(data.item, minlength=items)),
        np.log1p(first),
        np.log1p(last),
        last == _NEVER,
        *(np.where(last == _NEVER, np.log1p(np.maximum(days, 0)), 0) for days in (until, -until)),
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def unseen_item_features() -> npt.NDArray[np.float32]:
    """The statistics [len(NAMES)] of an item that is not in the fit."""
    decayed = [np.log(_ONE_EVENT)] * len(HALF_LIVES)
    return np.array([*decayed, 0.0, np.log1p(_NEVER), np.log1p(_NEVER), 1.0, 0.0, 0.0], np.float32)
