"""Why an event was taken out, in words: what the denoising method measured of it, against the user's other events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rayrec.denoising.denoiser import REASONS

REASON_LABELS = {
    "inconsistent": "does not fit the other events",
    "negative_influence": "makes the trusted events harder to predict",
    "inconsistent_and_negative_influence": "fits nothing else, and makes the trusted events harder to predict",
    "retracted": "was taken back by a later event",
    "burst": "came faster than people act",
    "repeat": "repeats the same item on one day",
    "short_dwell": "was looked at far shorter than usual",
    "low_likelihood": "is what a model of all users' events expects least of this user",
    "likely_noise": "looks like noise by several signs together",
}
_BOTH = "inconsistent_and_negative_influence"
_NEGATIVE, _SUPPORT = ("negative_influence", _BOTH), ("inconsistent", _BOTH)


def explain_removal(row: Mapping[str, Any], place: int) -> str:
    """In words, for one event of a DENOISED_HISTORY row (a mapping of lists); "" where it was kept as it is.

    Support is self-consistency: how well the other events predict this one. Negative influence is how much the scores
    of the trusted (newest) events rise without it, relative to items that were not consumed.
    """
    reason = REASONS[row["reason"][place]] if row["reason"][place] else ""
    if not reason:
        return ""
    clauses = []
    if reason in _NEGATIVE and row["negative_influence"][place] is not None:
        clauses.append(f"removing it raises the score of what was taken last ({row['negative_influence'][place]:+.2g})")
    if reason in _SUPPORT and (support := _support(row["influence"], place)):
        clauses.append(support)
    left = row["keep_weight"][place]
    return "; ".join(clauses or [f"it {REASON_LABELS[reason]}"]) + (f"; it still weighs {left:.0%}" if left else "")


def _support(influence: list[float | None], place: int) -> str:
    """How the event stands among the user's others; "" where it was not measured."""
    values = np.array([np.nan if one is None else one for one in influence])
    own, others = values[place], np.delete(values, place)
    others = others[np.isfinite(others)]
    if not np.isfinite(own) or not len(others):
        return ""
    if own <= 0:
        return f"the user's other {len(others)} events together do not support it"
    less = int((others < own).sum())
    have = "have" if less > 1 else "has"
    return f"it fits badly: of the user's other {len(others)} events {less or 'none'} {have} less support"
