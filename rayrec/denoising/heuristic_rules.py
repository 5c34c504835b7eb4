"""Rules that need no model: what a person would call noise when reading the history.

- undone: a purchase that a later event of negative weight (return, dislike) takes back, newest purchase first, within
  `retraction_days`. Evidence against an event is an event too (FeedRec, PHG-DIF).
- burst: more than `burst_timestamps` different moments within `burst_seconds`: a script's pace. A basket is one moment.
- repeated: an item again and again on one UTC day, after the first `repeats` times.
- skimmed: a dwell time below `short_dwell_share` of the user's own mean, where at least `short_dwell_min_events` have one.

The measure in `harm` is the rule's strength, in this order from 1 to 0.25; self-consistency is not measured (NaN). Of
more suspects than may go, the strongest go first, newer ones before older ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.denoising.denoiser import DENOISERS, REASONS, Denoiser, DenoisingDecision, Histories
from rayrec.denoising.event_selection import most_suspicious
from rayrec.denoising.removal_budget import RemovalBudget
from rayrec.numerics.ragged import Ragged

_RULES = ("retracted", "burst", "repeat", "short_dwell")  # strongest first

Bools = npt.NDArray[np.bool_]
Int = npt.NDArray[np.int64]


class RulesSettings(RemovalBudget):
    retraction_days: float = Field(60.0, ge=0)
    """Days within which a return or dislike takes back an event of the same item."""
    burst_timestamps: int = Field(20, ge=2)
    """More different moments than this, 2 or more, ..."""
    burst_seconds: float = Field(60.0, ge=0)
    """... within so many seconds are a burst: a script's pace. A basket is one moment."""
    repeats: int = Field(3, ge=1)
    """Times that an item counts on one UTC day; those after are repeated."""
    short_dwell_share: float = Field(0.2, ge=0, le=1)
    """A dwell time below this share of the user's own mean is skimmed, 0 to 1; 0: none is."""
    short_dwell_min_events: int = 5
    """Events with a dwell time that a user needs for that."""


@DENOISERS.register
class RuleDenoiser(Denoiser):
    """What a person would call noise goes: returned, in a burst, repeated, or only skimmed. Needs no model."""

    name = "rules"
    settings_class = RulesSettings

    def __init__(self, settings: RulesSettings) -> None:
        self.settings = settings

    @classmethod
    def load(cls, arrays: Mapping[str, npt.NDArray[Any]], settings: RulesSettings) -> Self:
        return cls(settings)

    def decide(self, histories: Histories) -> DenoisingDecision:
        decision = DenoisingDecision.all_retained(len(histories.item.values))
        if not len(histories.item.values):
            return decision
        given, positive = self.settings, histories.weight.values > 0
        found = {
            "retracted": retracted(histories, given.retraction_days),
            "burst": burst(histories.ts, given.burst_timestamps, given.burst_seconds),
            "repeat": repeated(histories, given.repeats),
            "short_dwell": short_dwell(histories, given.short_dwell_share, given.short_dwell_min_events),
        }
        strength, reason = np.zeros(len(positive), np.float32), np.zeros(len(positive), np.int8)
        for place, rule in reversed(list(enumerate(_RULES))):
            strength[found[rule]] = 1 - place / len(_RULES)
            reason[found[rule]] = REASONS.index(rule)
        strength[~positive] = 0
        out = most_suspicious(histories.item, strength, positive, given)
        decision.negative_influence[:] = strength
        decision.keep[out] = given.removed_weight
        decision.reason[out] = reason[out]
        return decision


def retracted(histories: Histories, retraction_days: float) -> Bools:
    """Positive events that a later negative event of the same user and item takes back, as brackets close."""
    item, weight = histories.item, histories.weight.values
    result = np.zeros(len(weight), np.bool_)
    signed = np.flatnonzero(weight != 0)
    if not len(signed):
        return result
    group = item.rows[signed] * (int(item.values.max(initial=0)) + 1) + item.values[signed]
    order = np.argsort(group, kind="stable")
    at, group = signed[order], group[order]
    step = np.where(weight[at] > 0, 1, -1)
    first = np.flatnonzero(np.append(True, group[1:] != group[:-1]))
    walk = np.cumsum(step)
    depth = walk - np.repeat(walk[first] - step[first], np.diff(np.append(first, len(at))))
    level = np.where(step > 0, depth, depth + 1)  # a purchase and what takes it back stand at the same level
    sort = np.lexsort((np.arange(len(at)), level, group))
    at, group, level, step = at[sort], group[sort], level[sort], step[sort]
    pair = (group[1:] == group[:-1]) & (level[1:] == level[:-1]) & (step[:-1] > 0) & (step[1:] < 0)
    soon = histories.ts.values[at[1:]] - histories.ts.values[at[:-1]] <= retraction_days * MICROSECONDS_PER_DAY
    result[at[:-1][pair & soon]] = True
    return result


def burst(ts: Ragged, moments: int, seconds: float) -> Bools:
    """Events with more than `moments` different times of the same user in some window of `seconds` around them."""
    rows, values = ts.rows, ts.values
    origin = int(values.min(initial=0))
    span = int(values.max(initial=0)) - origin + 2 * int(seconds * 1e6) + 2
    # Each user by its own clock, one after another, in milliseconds where microseconds would overflow.
    unit = 1000 if len(ts) * span > 2**62 else 1
    clock = (rows * (span // unit + 2)) + (values - origin) // unit
    distinct, place = np.unique(clock, return_inverse=True)
    end = np.searchsorted(distinct, distinct + int(seconds * 1e6) // unit, side="right")
    crowded = np.flatnonzero(end - np.arange(len(distinct)) > moments)
    edges = np.zeros(len(distinct) + 1, np.int64)
    np.add.at(edges, crowded, 1)
    np.add.at(edges, end[crowded], -1)
    result: Bools = (np.cumsum(edges[:-1]) > 0)[place]
    return result


def repeated(histories: Histories, repeats: int) -> Bools:
    """Positive events of an item after the first `repeats` of the same user, item and UTC day."""
    item = histories.item
    chosen = np.flatnonzero(histories.weight.values > 0)
    day = histories.ts.values[chosen] // MICROSECONDS_PER_DAY
    rows, codes = item.rows[chosen], item.values[chosen]
    order = np.lexsort((np.arange(len(chosen)), day, codes, rows))
    rows, codes, day = rows[order], codes[order], day[order]
    new = np.append(True, (rows[1:] != rows[:-1]) | (codes[1:] != codes[:-1]) | (day[1:] != day[:-1]))[: len(chosen)]
    place = np.arange(len(chosen))
    since = place - np.maximum.accumulate(np.where(new, place, 0)) if len(place) else place
    result = np.zeros(len(item.values), np.bool_)
    result[chosen[order[since >= repeats]]] = True
    return result


def short_dwell(histories: Histories, share: float, events: int) -> Bools:
    """Positive events whose dwell is below `share` of the mean of the user's positive events that have one."""
    rows, dwell = histories.item.rows, histories.dwell_ms.values
    timed = (dwell >= 0) & (histories.weight.values > 0)
    count = np.bincount(rows, timed, minlength=len(histories))
    mean = np.bincount(rows, np.where(timed, dwell, 0), minlength=len(histories)) / np.maximum(count, 1)
    result: Bools = timed & (count[rows] >= events) & (dwell < share * mean[rows])
    return result
