"""The probability that a user accepts a candidate, calibrated on training examples: when not to show it.

    share       softmax of the blended score over the user's candidates
    probability isotonic regression of "consumed within the horizon" on log share

Isotonic (Zadrozny & Elkan 2002): the only assumption is that a larger share is no less likely to be accepted. The
examples are scored by blenders that were fitted on other users (two halves by a hash). They are users who consumed
something new in the horizon, as are those whom `jobs.evaluate` judges: for all users the probability is lower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy.optimize import isotonic_regression

from rayrec.numerics.hashing import derive_seed, hash_strings, splitmix64
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.types import Bools, Float32s, Float64s

if TYPE_CHECKING:
    from rayrec.blending.blend_fitting import TrainingWindow
    from rayrec.blending.blender import Blender

_BINS = 500  # of equal numbers of examples, which bounds the size of the curve
_SALT = np.uint64(derive_seed("acceptance"))


@dataclass(frozen=True)
class AcceptanceCurve:
    """P(accept) by log share: piecewise linear between these points, constant beyond them."""

    log_share: tuple[float, ...]  # ascending
    probability: tuple[float, ...]  # non-decreasing

    @classmethod
    def fit(cls, log_share: Float64s, accepted: Bools) -> Self:
        """From the log shares [n] of candidates, n > 0, and whether each was consumed [n]."""
        order = np.argsort(log_share, kind="stable")
        edges = np.linspace(0, len(order), min(_BINS, len(order)) + 1).astype(np.int64)
        size = np.diff(edges)
        parts = (values[order].astype(np.float64) for values in (log_share, accepted))
        x, y = (np.add.reduceat(part, edges[:-1]) / size for part in parts)
        return cls(tuple(x.tolist()), tuple(isotonic_regression(y, weights=size).x.tolist()))

    def __call__(self, scores: Ragged) -> Float32s:
        """The probability of each candidate, [candidates], from the blended scores of all candidates, by user."""
        return np.interp(log_shares(scores), self.log_share, self.probability).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        return cls(tuple(content["log_share"]), tuple(content["probability"]))


def log_shares(scores: Ragged) -> Float64s:
    """Log softmax of each score within its row, [candidates]."""
    if not len(scores.values):
        return np.zeros(0)
    values, filled = scores.values.astype(np.float64), np.flatnonzero(scores.lengths)
    lengths = scores.lengths[filled]
    first = np.cumsum(lengths) - lengths
    centred = values - np.repeat(np.maximum.reduceat(values, first), lengths)
    result: Float64s = centred - np.repeat(np.log(np.add.reduceat(np.exp(centred), first)), lengths)
    return result


def fit_acceptance(
    windows: Sequence[TrainingWindow],
    fit: Callable[[Sequence[TrainingWindow]], Blender],
    max_promotion: int | None = None,
) -> AcceptanceCurve | None:
    """The curve of the blender that `fit` makes of training windows; None without examples.

    The windows have all training users, also those who consumed none of their candidates. `max_promotion`: as slates
    are made with.
    """
    shares, accepted = [], []
    for half in (0, 1):
        own = [_half(window, half) for window in windows]
        blender = fit([_half(window, 1 - half) for window in windows])
        for window in own:
            if len(window.table):
                shares.append(log_shares(blender.scores(window.table, window.item_features, max_promotion)))
                accepted.append(window.consumed.values > 0)
    if not sum(map(len, shares)):
        return None
    return AcceptanceCurve.fit(np.concatenate(shares), np.concatenate(accepted))


def _half(window: TrainingWindow, half: int) -> TrainingWindow:
    key = splitmix64(hash_strings(window.table["user_id"]) ^ _SALT)
    return window.filter((key & np.uint64(1)) == np.uint64(half))
