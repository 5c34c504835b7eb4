"""Explanations of removed interactions as text, from the measures of the denoising method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rayrec.denoising.denoiser import REASONS

REASON_LABELS = {
    "inconsistent": "does not fit the other events",
    "negative_influence": "makes the trusted events harder to predict",
    "inconsistent_and_negative_influence": "fits no other event, and makes the trusted events harder to predict",
    "retracted": "was reversed by a later event",
    "burst": "came faster than a person acts",
    "repeat": "repeats the same item on one date",
    "short_dwell": "was viewed far shorter than usual",
    "low_likelihood": "is the event of this user that a model of all users expects least",
    "likely_noise": "looks like noise by several signs together",
}
_BOTH = "inconsistent_and_negative_influence"
_NEGATIVE_INFLUENCE, _INCONSISTENT = ("negative_influence", _BOTH), ("inconsistent", _BOTH)


def explain_removal(row: Mapping[str, Any], event: int) -> str:
    """The explanation for one event of a DENOISED_HISTORY row (a mapping of lists); "" where it was retained.

    Influence here is self-consistency: how well the other events predict this one. Negative influence: how much the
    scores of the trusted (newest) events rise without this one, relative to items that were not consumed.
    """
    reason = REASONS[row["reason"][event]] if row["reason"][event] else ""
    if not reason:
        return ""
    clauses = []
    negative_influence = row["negative_influence"][event]
    if reason in _NEGATIVE_INFLUENCE and negative_influence is not None:
        clauses.append(f"removing it raises the score of the newest events ({negative_influence:+.2g})")
    if reason in _INCONSISTENT and (support := _support(row["influence"], event)):
        clauses.append(support)
    weight = row["keep_weight"][event]
    return "; ".join(clauses or [f"it {REASON_LABELS[reason]}"]) + (f"; it keeps {weight:.0%} weight" if weight else "")


def _support(influence: list[float | None], event: int) -> str:
    """The event's influence compared with that of the user's other events, as text; "" if it was not measured."""
    values = np.array([np.nan if one is None else one for one in influence])
    own, others = values[event], np.delete(values, event)
    others = others[np.isfinite(others)]
    if not np.isfinite(own) or not len(others):
        return ""
    if own <= 0:
        return f"the user's other {len(others)} events together do not support it"
    less = int((others < own).sum())
    have = "have" if less > 1 else "has"
    return f"it fits badly: of the user's other {len(others)} events {less or 'none'} {have} less support"
