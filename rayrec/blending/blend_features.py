"""Features of the blender.

- items: log popularity decayed at several half-lives, log age, log days since the last event, whether it is new,
- each personalized retriever: x and log(max(x, 0) + 0.3), with x its score over the root mean square of the user's,
- each content feature, standardised over the user's candidates, times n / (n + 5) for a history of n events,
- the LLM's score; a candidate without one gets the lowest of its user,
- products of some of these with user features, so that new users rely more on item features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rayrec.data.schemas import CONTENT, MICROSECONDS_PER_DAY
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.types import Bools, Float32s

LLM = "llm"
USER_FEATURES = ("events", "recency", "freshness")
_CROSSED_FEATURES = ("log_decayed_1d", "log_decayed_8d", "log_age", "log_count", "new")  # item features x user features
_LOG_OFFSET = np.float32(0.3)
_NEVER = 999.0  # days since the newest event of a user without history
_FRESH_DAYS = 14.0
_TRUSTED_EVENTS = 5.0  # history length at which content features have half of their full scale


@dataclass(frozen=True)
class ItemFeatures:
    """Features of each item at a cutoff."""

    names: tuple[str, ...]
    values: Float32s  # [items, len(names)]
    cutoff: int  # microseconds UTC

    def column(self, name: str) -> Float32s:
        return self.values[:, self.names.index(name)]

    @property
    def crossed(self) -> tuple[str, ...]:
        """Names of the features that are multiplied with user features."""
        return tuple(name for name in _CROSSED_FEATURES if name in self.names)


def user_features(table: pa.Table, item_features: ItemFeatures) -> Float32s:
    """User features [users, len(USER_FEATURES)] of candidate_schema rows, at the cutoff of `item_features`.

    events: log(1 + events in the history); recency: log(1 + days since the newest one); freshness: mean of
    exp(-age / 14 days), with the age of each item when the user consumed it.
    """
    item, ts = Ragged.from_arrow(table["item"]), Ragged.from_arrow(table["ts"])
    age = (item_features.cutoff - ts.values) / MICROSECONDS_PER_DAY
    count = item.lengths
    newest = np.full(len(count), _NEVER)
    some = np.flatnonzero(count)
    if len(some):
        newest[some] = np.minimum.reduceat(age, item.offsets[some])
    item_age = np.expm1(item_features.column("log_age")[item.values].astype(np.float64))
    young = np.exp(-np.maximum(item_age - age, 0) / _FRESH_DAYS)
    freshness = np.bincount(item.rows, young, minlength=len(count)) / np.maximum(count, 1)
    return np.stack([np.log1p(count), np.log1p(np.maximum(newest, 0)), freshness], axis=1).astype(np.float32)


def blend_features(
    table: pa.Table,
    item_features: ItemFeatures,
    personalized: Sequence[str],
    content: Sequence[str],
    user: Float32s,
    llm: bool,
) -> dict[str, Float32s]:
    """Every feature of every candidate, [candidates], by name; `user`: centred user features."""
    candidate = Ragged.from_arrow(table["candidate"])
    found = {name: item_features.column(name)[candidate.values] for name in item_features.names}
    for number, feature in enumerate(USER_FEATURES):
        of_user = np.repeat(user[:, number], candidate.lengths)
        found.update({f"{name} x {feature}": found[name] * of_user for name in item_features.crossed})
    return found | scorer_features(table, personalized, content, user, llm)


def scorer_features(
    table: pa.Table, personalized: Sequence[str], content: Sequence[str], user: Float32s, llm: bool
) -> dict[str, Float32s]:
    """Those of the features that belong to a scorer."""
    found: dict[str, Float32s] = {}
    for name in personalized:
        score = rms_normalised(Ragged.from_arrow(table[f"score.{name}"]))
        found[name], found[f"log {name}"] = score, log_feature(score)
    for name in content:
        found[f"{CONTENT}{name}"] = content_feature(table, f"{CONTENT}{name}")
    if llm:
        values = Ragged.from_arrow(table["llm_score"])
        score = impute_missing(values)[0]
        found[LLM], found[f"{LLM} x events"] = score, score * np.repeat(user[:, 0], values.lengths)
    return found


def scorer_of(feature: str) -> str:
    """The scorer that a feature belongs to, if any: the name of a retriever, content column or LLM."""
    return feature.removeprefix("log ").removesuffix(" x events")


def rms_normalised(scores: Ragged) -> Float32s:
    """Each score over the root mean square of its row: the scale of a retriever differs between users."""
    square = np.bincount(scores.rows, np.square(scores.values, dtype=np.float64), minlength=len(scores))
    size = np.sqrt(square / np.maximum(scores.lengths, 1))
    scale = np.where(size > 1e-12, 1 / np.maximum(size, 1e-12), 0).astype(np.float32)
    result: Float32s = scores.values * np.repeat(scale, scores.lengths)
    return result


def content_feature(table: pa.Table, column: str) -> Float32s:
    """The feature of a content column: short histories say less about a user's taste."""
    values = Ragged.from_arrow(table[column])
    events = Ragged.from_arrow(table["item"]).lengths
    trust = (events / (events + _TRUSTED_EVENTS)).astype(np.float32)
    result: Float32s = user_standardised(values) * np.repeat(trust, values.lengths)
    return result


def user_standardised(values: Ragged) -> Float32s:
    """Each value less the mean of its row, over the row's standard deviation; 0 in rows without spread."""
    size = np.maximum(values.lengths, 1)
    exact = values.values.astype(np.float64)
    centred = exact - (np.bincount(values.rows, exact, minlength=len(values)) / size)[values.rows]
    spread = np.sqrt(np.bincount(values.rows, np.square(centred), minlength=len(values)) / size)
    largest = np.zeros(len(values))
    np.maximum.at(largest, values.rows, np.abs(exact))
    some = spread > 1e-6 * largest  # less is rounding
    scale = np.where(some, 1 / np.where(some, spread, 1), 0)
    result: Float32s = (centred * scale[values.rows]).astype(np.float32)
    return result


def log_feature(score: Float32s) -> Float32s:
    result: Float32s = np.log(np.maximum(score, 0) + _LOG_OFFSET)
    return result


def impute_missing(llm: Ragged) -> tuple[Float32s, Bools]:
    """Replace missing scores by the row's lowest; also return which rows [users] have any score."""
    finite = np.isfinite(llm.values)
    known = np.bincount(llm.rows, finite, minlength=len(llm)) > 0
    lowest = np.full(len(llm), np.inf, np.float32)
    np.minimum.at(lowest, llm.rows[finite], llm.values[finite])
    lowest[~known] = 0
    return np.where(finite, llm.values, np.repeat(lowest, llm.lengths)).astype(np.float32), known
