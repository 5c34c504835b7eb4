"""The sources: what is read of a user, as lines of words with weights. Made from HISTORY and ITEM tables alone.

    events     one line an event: the item, its words, which event, how long ago, value, price band
    dislikes   the same for what speaks against an item: events of negative weight, and low values where config says so
    profile    one line of the numbers of `rayrec.embeddings.rfm_features`, as they are: standardised, at most 3 off the mean
    rhythm     weekdays, parts of the day, months, and the pauses between active days
    sessions   one line a session: how large, how long ago, after what pause, its first items

A user without lines lacks the source. Leaving one event out changes every view that it has a part in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rayrec.config.embeddings_section import Embeddings, EmbeddingViewSettings
from rayrec.embeddings.rfm_features import FEATURES, features
from rayrec.embeddings.source_events import Events, Items
from rayrec.embeddings.view_vocabulary import PAD, Vocabulary
from rayrec.numerics.time_units import MICROSECONDS_PER_DAY

FIELDS = ("event", "age", "value", "band", "size", "gap", "weekday", "part", "month", "number")
"""Numbers that are read as words; `number`: which one of the profile."""

_TEXT = 12  # words of an item's text
_FIRST_ITEMS = 4  # of a session
_BANDS = 10  # of prices, with as many events in each
_Z = 3.0  # standard deviations beyond which a number of the profile says no more


@dataclass(frozen=True)
class View:
    """One source of some users: `lengths` [users] lines each, oldest first; `words`, `weight` [lines, most words]."""

    words: npt.NDArray[np.int32]  # PAD where there is none
    weight: npt.NDArray[np.float32]
    lengths: npt.NDArray[np.int64]

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        return self.lengths > 0


@dataclass(frozen=True)
class FeatureScaler:
    """What numbers are measured by; learned with the model and kept with it."""

    bands: tuple[float, ...]  # inner edges of the price bands
    mean: tuple[float, ...]  # of each profile feature
    spread: tuple[float, ...]

    @classmethod
    def learn(cls, events: Sequence[Events], items: Items) -> FeatureScaler:
        """From users as they were at some moments."""
        prices = np.concatenate([items.price[part.item] for part in events])
        prices = prices[~np.isnan(prices)]
        bands = np.unique(np.quantile(prices, np.arange(1, _BANDS) / _BANDS)) if len(prices) else np.empty(0)
        table = np.concatenate([features(part, items) for part in events])
        there = ~np.isnan(table)
        count = np.maximum(there.sum(0), 1)
        mean = np.nan_to_num(table).sum(0) / count
        spread = np.sqrt((np.where(there, table - mean, 0) ** 2).sum(0) / count)
        return cls(tuple(bands.tolist()), tuple(mean.tolist()), tuple(np.maximum(spread, 1e-6).tolist()))

    def as_json(self) -> dict[str, Any]:
        return {"bands": list(self.bands), "mean": list(self.mean), "spread": list(self.spread)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> FeatureScaler:
        return cls(tuple(content["bands"]), tuple(content["mean"]), tuple(content["spread"]))


class ViewBuilder:
    """Makes the views of any users over one catalogue."""

    def __init__(self, settings: Embeddings, vocabulary: Vocabulary, scales: FeatureScaler, items: Items) -> None:
        self.settings, self.items = settings, items
        self._vocabulary, self._scales = vocabulary, scales
        self._token = vocabulary.item_tokens(items.item_id)
        self._text = vocabulary.text_matrix(items.text, _TEXT)
        band = np.searchsorted(np.asarray(scales.bands), items.price).astype(np.float64)
        band[np.isnan(items.price)] = np.nan
        self._band = band

    def __call__(self, events: Events) -> dict[str, View]:
        """Source -> view, in the order of the config."""
        return {name: self._made(source, events) for name, source in self.settings.sources.items()}

    def _made(self, source: EmbeddingViewSettings, events: Events) -> View:
        if source.kind == "profile":
            return _newest(*self._profile(events), source.newest)
        if source.kind == "rhythm":
            return _newest(*self._rhythm(events), source.newest)
        if source.kind == "sessions":
            return _newest(*self._sessions(events.filter(~self._disliked(events))), source.newest)
        disliked = self._disliked(events)
        chosen = events.filter(disliked if source.kind == "dislikes" else ~disliked)
        rank = chosen.offsets[1:][chosen.user] - np.arange(len(chosen.item))
        return _newest(*self._events(chosen.filter(rank <= source.newest)), source.newest)

    def _disliked(self, events: Events) -> npt.NDArray[np.bool_]:
        disliked: npt.NDArray[np.bool_] = events.weight < 0
        if self.settings.dislike_at_most is not None:
            disliked = disliked | (events.value <= self.settings.dislike_at_most)  # NaN is none
        return disliked

    def _events(self, events: Events) -> _Lines:
        field = self._vocabulary.field
        text = self._text[events.item]
        share = 1 / np.maximum((text != PAD).sum(1), 1)
        single = np.stack(
            [
                self._token[events.item],
                self._vocabulary.field_exact("event", np.minimum(events.event, 31)),
                field("age", events.age_days),
                field("value", events.value),
                field("band", self._band[events.item]),
            ],
            axis=1,
        )
        weight = np.concatenate([np.ones(single.shape), np.repeat(share[:, None], _TEXT, axis=1)], axis=1)
        return np.concatenate([single, text], axis=1), weight, events.lengths

    def _profile(self, events: Events) -> _Lines:
        """A word a number, the same for all users, that weighs what the number is; and one that everybody has.

        No words of buckets: beside them the numbers could no longer be read off the line's sum.
        """
        table = features(events, self.items)
        z = np.clip((table - np.asarray(self._scales.mean)) / np.asarray(self._scales.spread), -_Z, _Z)
        some = events.lengths > 0
        number = self._vocabulary.field_exact("number", np.arange(len(FEATURES) + 1))
        weight = np.concatenate([z, np.ones((len(z), 1))], axis=1)[some]
        words = np.where(np.isnan(weight), PAD, number)
        return words, np.nan_to_num(weight), some.astype(np.int64)

    def _rhythm(self, events: Events) -> _Lines:
        day = events.ts // MICROSECONDS_PER_DAY
        part = events.ts % MICROSECONDS_PER_DAY * 6 // MICROSECONDS_PER_DAY
        month = events.ts.astype("datetime64[us]").astype("datetime64[M]").astype(np.int64) % 12
        lines = [
            self._shares(events, "weekday", (day + 3) % 7, 7),  # 1970-01-01 was a Thursday
            self._shares(events, "part", part, 6),
            self._shares(events, "month", month, 12),
            self._pauses(events, day),
        ]
        words = np.stack([words for words, _ in lines], axis=1)
        weight = np.stack([weight for _, weight in lines], axis=1)
        some = events.lengths > 0
        return words[some].reshape(-1, _TEXT), weight[some].reshape(-1, _TEXT), some * len(lines)

    def _shares(self, events: Events, field: str, of: npt.NDArray[np.int64], kinds: int) -> _Words:
        counts = np.bincount(events.user * kinds + of, minlength=len(events) * kinds).reshape(-1, kinds)
        words = np.zeros((len(events), _TEXT), np.int64)
        words[:, :kinds] = self._vocabulary.field_exact(field, np.arange(kinds))
        weight = np.zeros((len(events), _TEXT))
        weight[:, :kinds] = counts / np.maximum(events.lengths, 1)[:, None]
        return words, weight

    def _pauses(self, events: Events, day: npt.NDArray[np.int64]) -> _Words:
        """How often a pause of which length lay between two active days; lengths in half octaves of days."""
        pause = np.diff(day, prepend=day[:1]).astype(np.float64)
        same_user = np.diff(events.user, prepend=-1) == 0
        counted = same_user & (pause > 0)
        length = np.minimum(2 * np.log2(np.maximum(pause, 1)), _TEXT - 1).astype(np.int64)
        key = events.user[counted] * _TEXT + length[counted]
        counts = np.bincount(key, minlength=len(events) * _TEXT).reshape(-1, _TEXT)
        words = np.broadcast_to(self._vocabulary.field_exact("gap", np.arange(_TEXT)), counts.shape)
        return words, counts / np.maximum(counts.sum(1), 1)[:, None]

    def _sessions(self, events: Events) -> _Lines:
        field, gap = self._vocabulary.field, self.settings.session_gap_hours * MICROSECONDS_PER_DAY / 24
        pause = np.diff(events.ts, prepend=events.ts[:1])
        new_user = np.diff(events.user, prepend=-1) != 0
        begins = np.flatnonzero(new_user | (pause > gap))
        size = np.diff(np.append(begins, len(events.item)))
        session = np.repeat(np.arange(len(begins)), size)
        band = self._band[events.item]
        known = np.bincount(session, ~np.isnan(band), minlength=len(begins))
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_band = np.bincount(session, np.nan_to_num(band), minlength=len(begins)) / known
        value = np.bincount(session, np.nan_to_num(events.value), minlength=len(begins))
        place = begins[:, None] + np.arange(_FIRST_ITEMS)
        inside = np.arange(_FIRST_ITEMS) < size[:, None]
        first = np.where(inside, self._token[events.item[np.where(inside, place, 0)]], PAD) if len(begins) else place
        columns = [
            field("size", size),
            field("age", events.age_days[begins]),
            field("gap", np.where(new_user[begins], np.nan, pause[begins] / MICROSECONDS_PER_DAY)),
            field("band", mean_band),
            field("value", value),
        ]
        words = np.concatenate([np.stack(columns, axis=1), first], axis=1)
        lengths = np.bincount(events.user[begins], minlength=len(events))
        return words, np.ones(words.shape), lengths


_Words = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
_Lines = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.int64]]


def _newest(
    words: npt.NDArray[np.int64], weight: npt.NDArray[np.float64], lengths: npt.NDArray[np.int64], most: int
) -> View:
    """The newest lines of each user, and no weight for words that are not there."""
    last = np.repeat(np.cumsum(lengths), lengths)
    kept = last - np.arange(len(words)) <= most
    weight = np.where(words == PAD, 0, weight)
    return View(words[kept].astype(np.int32), weight[kept].astype(np.float32), np.minimum(lengths, most))
