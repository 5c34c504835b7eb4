"""Denoising by heuristic rules that need no model.

- retracted: a purchase that a later event of negative weight (return, dislike) of the same item cancels, newest
  purchase first, within `retraction_days`. Negative feedback is evidence (FeedRec, PHG-DIF).
- burst: more than `burst_timestamps` different times within `burst_seconds`, as by a script. A basket is one time.
- repeat: repetitions of an item on one UTC day, after the first `repeats` times.
- short_dwell: a dwell time below `short_dwell_share` of the user's own mean, if at least `short_dwell_min_events`
  events have one.

The negative influence is the rule's strength, in this order from 1 to 0.25; self-consistency is not measured (NaN). If
more events match than may be removed, the strongest are removed first, and newer ones before older ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.denoising.denoiser import DENOISERS, REASONS, Denoiser, DenoisingDecision, Histories
from rayrec.denoising.removal import RemovalBudget, most_suspicious
from rayrec.numerics.ragged import Ragged

_RULES = ("retracted", "burst", "repeat", "short_dwell")  # strongest first

Bools = npt.NDArray[np.bool_]
Int = npt.NDArray[np.int64]


class RulesSettings(RemovalBudget):
    retraction_days: float = Field(60.0, ge=0)
    """Days within which a return or dislike retracts an event of the same item."""
    burst_timestamps: int = Field(20, ge=2)
    """A burst has more than this number of different times within `burst_seconds`, 2 or more. A basket is one time."""
    burst_seconds: float = Field(60.0, ge=0)
    """Length of the time window in which a burst is counted, in seconds."""
    repeats: int = Field(3, ge=1)
    """Allowed events of an item on one UTC day; all further ones are repeats."""
    short_dwell_share: float = Field(0.2, ge=0, le=1)
    """A dwell time below this share of the user's mean is short, 0 to 1; 0: none."""
    short_dwell_min_events: int = 5
    """Events with a dwell time that a user needs for this rule."""


@DENOISERS.register
class RuleDenoiser(Denoiser):
    """Removes events that are retracted, in a burst, repeated, or of short dwell. Needs no model."""

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
        decision.keep_weight[out] = given.removed_weight
        decision.reason[out] = reason[out]
        return decision


def retracted(histories: Histories, retraction_days: float) -> Bools:
    """Mask of positive events that a later negative event of the same user and item cancels, matched like brackets."""
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
    level = np.where(step > 0, depth, depth + 1)  # a purchase and its retraction are at the same level
    sort = np.lexsort((np.arange(len(at)), level, group))
    at, group, level, step = at[sort], group[sort], level[sort], step[sort]
    pair = (group[1:] == group[:-1]) & (level[1:] == level[:-1]) & (step[:-1] > 0) & (step[1:] < 0)
    soon = histories.ts.values[at[1:]] - histories.ts.values[at[:-1]] <= retraction_days * MICROSECONDS_PER_DAY
    result[at[:-1][pair & soon]] = True
    return result


def burst(ts: Ragged, moments: int, seconds: float) -> Bools:
    """Mask of events in a window of `seconds` with more than `moments` different times of the same user."""
    rows, values = ts.rows, ts.values
    origin = int(values.min(initial=0))
    span = int(values.max(initial=0)) - origin + 2 * int(seconds * 1e6) + 2
    # One time axis for all users, one after another; in milliseconds where microseconds would overflow.
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
    """Mask of positive events after the first `repeats` of the same user, item and UTC day."""
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
    """Mask of positive events whose dwell is below `share` of the mean over the user's positive events with a dwell."""
    rows, dwell = histories.item.rows, histories.dwell_ms.values
    timed = (dwell >= 0) & (histories.weight.values > 0)
    count = np.bincount(rows, timed, minlength=len(histories))
    mean = np.bincount(rows, np.where(timed, dwell, 0), minlength=len(histories)) / np.maximum(count, 1)
    result: Bools = timed & (count[rows] >= events) & (dwell < share * mean[rows])
    return result
