"""Effects by segment, shrunk towards the effect on all users, and a test of whether segments differ at all.

The differences of many small segments scatter even where the effect is the same in all. So each family of disjoint
segments (by history, tenure, category) is a random-effects model: the segments' effects vary around their mean by a
variance that is estimated from the differences (DerSimonian & Laird 1986). Each effect is shrunk by the share of its
own noise (empirical Bayes; James & Stein 1961, Morris 1983). Where nothing varies, all segments have the family's mean.
The test of interaction is Cochran's Q.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import stats

from rayrec.evaluation.comparison import ALL_USERS
from rayrec.evaluation.segments import segment_family
from rayrec.evaluation.significance import LEVEL, POWER
from rayrec.numerics.types import Float64s

_MIN_SEGMENTS = 2  # of a family


@dataclass(frozen=True)
class SegmentEffect:
    """One arm's difference in one segment: as measured, and shrunk with its 95% interval."""

    arm: str
    family: str
    segment: str
    users: int
    measured: float
    shrunk: float
    low: float
    high: float
    interaction_p: float  # of the family: that all its segments have the same effect


def segment_effects(comparison: pa.Table, baseline: str, metric: str) -> tuple[SegmentEffect, ...]:
    """Effects of every arm by segment from COMPARISON rows; families of one segment have none."""
    families: dict[tuple[str, str], list[dict[str, Any]]] = {}
    every = [row for row in comparison.to_pylist() if row["baseline"] == baseline and row["metric"] == metric]
    rows = [row for row in every if row["segment"] != ALL_USERS]
    for row in rows:
        families.setdefault((row["system"], segment_family(row["segment"])), []).append(row)
    tests = len({row["segment"] for row in rows}) * len({row["system"] for row in rows})
    found: list[SegmentEffect] = []
    for (arm, family), of in families.items():
        if len(of) < _MIN_SEGMENTS:
            continue
        value = np.array([row["value"] for row in of])
        error = np.array([_standard_error(row, tests) for row in of])
        shrunk = shrink(value, error)
        for row, one, spread in zip(of, shrunk.value.tolist(), shrunk.error.tolist(), strict=True):
            half = float(stats.norm.ppf(1 - LEVEL / 2)) * spread
            named = (arm, family, row["segment"], row["users"], row["value"])
            found.append(SegmentEffect(*named, one, one - half, one + half, shrunk.interaction_p))
    return tuple(found)


def interaction_sentences(effects: Sequence[SegmentEffect]) -> list[str]:
    """Families whose segments differ (p < 5% / families), as text."""
    by_family: dict[tuple[str, str], list[SegmentEffect]] = {}
    for effect in effects:
        by_family.setdefault((effect.arm, effect.family), []).append(effect)
    sentences = []
    for (arm, family), of in by_family.items():
        if of[0].interaction_p < LEVEL / len(by_family):
            listed = ", ".join(f"{e.segment} {e.shrunk:+.4f} ({e.low:+.4f} … {e.high:+.4f})" for e in of)
            sentences.append(
                f"{arm}: the effect depends on {family} (p = {of[0].interaction_p:.2g}); shrunk: {listed}."
            )
    return sentences


@dataclass(frozen=True)
class Shrunk:
    value: Float64s  # [segments]
    error: Float64s  # posterior standard deviation
    interaction_p: float


def shrink(value: Float64s, error: Float64s) -> Shrunk:
    """Shrink estimates [segments] with these standard errors towards their weighted mean.

    The posterior variance includes that of the mean, and that of the estimated variance between segments (Morris 1983,
    eq. 4.2). Estimates of error 0 stay as they are.
    """
    known = np.maximum(error, 1e-12)
    weight = 1 / known**2
    mean = float((weight * value).sum() / weight.sum())
    q, degrees = float((weight * (value - mean) ** 2).sum()), len(value) - 1
    scale = float(weight.sum() - (weight**2).sum() / weight.sum())
    between = max(0.0, (q - degrees) / scale) if scale > 0 else 0.0
    total = 1 / (known**2 + between)
    mean, mean_variance = float((total * value).sum() / total.sum()), float(1 / total.sum())
    own = between / (between + known**2)  # share of the estimate that is not shrunk away
    variance = own * known**2 + (1 - own) ** 2 * mean_variance
    variance += 2 / max(len(value) - 3, 1) * (1 - own) ** 2 * (value - mean) ** 2
    return Shrunk(own * value + (1 - own) * mean, np.sqrt(variance), float(stats.chi2.sf(q, max(degrees, 1))))


def _standard_error(row: dict[str, Any], family: int) -> float:
    """Of the difference, from its detectable effect at the level of `family` differences."""
    reach = stats.norm.ppf(1 - LEVEL / family / 2) + stats.norm.ppf(POWER)
    return float(row["min_detectable_effect"] / reach)
