"""Which events of a history are trusted: what a method measures harm towards."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rayrec.denoising.denoiser import Histories
from rayrec.denoising.removal_budget import TrustedInteractions


def trusted_events(
    histories: Histories,
    scored: npt.NDArray[np.bool_],
    trust: TrustedInteractions,
) -> npt.NDArray[np.bool_]:
    """Among the judged events, [judged]: each user's newest ones of enough weight and value.

    None: whatever the weight or value is; an event without a value (NaN) does not reach any.
    """
    eligible = np.ones(int(scored.sum()), np.bool_)
    if trust.trusted_min_weight is not None:
        eligible &= histories.weight.values[scored] >= trust.trusted_min_weight
    if trust.trusted_min_value is not None:
        eligible &= histories.value.values[scored] >= trust.trusted_min_value
    rows = histories.item.rows[scored]
    ends = np.searchsorted(rows, rows, side="right")
    through = np.concatenate([[0], np.cumsum(eligible)])
    newer = through[ends] - through[1:]  # eligible events of the same user after this one
    trusted: npt.NDArray[np.bool_] = eligible & (newer < trust.trusted_newest)
    return trusted
