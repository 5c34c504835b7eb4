"""Which events of a history are trusted: what a method measures harm towards."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rayrec.denoising.base import Histories


def trusted_events(
    histories: Histories,
    judged: npt.NDArray[np.bool_],
    newest: int,
    min_weight: float | None,
    min_value: float | None,
) -> npt.NDArray[np.bool_]:
    """Among the judged events, [judged]: each user's `newest` ones of at least this weight and this value.

    None: whatever the weight or value is; an event without a value (NaN) does not reach any.
    """
    eligible = np.ones(int(judged.sum()), np.bool_)
    if min_weight is not None:
        eligible &= histories.weight.values[judged] >= min_weight
    if min_value is not None:
        eligible &= histories.value.values[judged] >= min_value
    rows = histories.item.rows[judged]
    ends = np.searchsorted(rows, rows, side="right")
    through = np.concatenate([[0], np.cumsum(eligible)])
    newer = through[ends] - through[1:]  # eligible events of the same user after this one
    trusted: npt.NDArray[np.bool_] = eligible & (newer < newest)
    return trusted
