"""What is known of an item on the scored date whoever the user is: the prior of the blend.

Popularity faded at several half-lives (in logs, a learned weighting of them is a learned half-life), age and freshness.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rayrec.retrieval.retriever import FitData

HALF_LIVES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 64.0)  # days
NAMES = (*(f"log_decayed_{days:g}d" for days in HALF_LIVES), "log_count", "log_age", "log_last")
_ONE_EVENT = 0.2  # added before the logarithm, in events: what separates never from once
_NEVER = 999.0  # days: the age and the last event of an item without events


def item_statistics(data: FitData) -> npt.NDArray[np.float32]:
    """[items, len(NAMES)]: logs of the faded counts, of the count + 1, and of days + 1 since first and last event."""
    items = data.matrix.shape[1]
    age = data.age_days
    faded = [np.bincount(data.item, np.exp2(-age / days), minlength=items) for days in HALF_LIVES]
    first, last = np.zeros(items), np.full(items, _NEVER)
    np.maximum.at(first, data.item, age)
    np.minimum.at(last, data.item, age)
    first[last == _NEVER] = _NEVER
    columns = [
        *(np.log(count + _ONE_EVENT) for count in faded),
        np.log1p(np.bincount(data.item, minlength=items)),
        np.log1p(first),
        np.log1p(last),
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def unseen_item_features() -> npt.NDArray[np.float32]:
    """The features [len(NAMES)] of an item that the fit has never seen."""
    faded = [np.log(_ONE_EVENT)] * len(HALF_LIVES)
    return np.array([*faded, 0.0, np.log1p(_NEVER), np.log1p(_NEVER)], np.float32)
