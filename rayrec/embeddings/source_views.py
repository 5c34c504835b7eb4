"""Views of a user, one per source: lines of weighted words, made from HISTORY and ITEM tables.

events     one line per event: item, its words, event type, age, value, price band
dislikes   the same for evidence against items: events of negative weight, and low values if configured
profile    one line with the numbers of `rayrec.embeddings.rfm_features`, standardised and clipped to 3 sigma
rhythm     weekdays, parts of the day, months, and pauses between active days
sessions   one line per session: size, age, pause before it, its first items

A source without lines is missing for the user. Removing an event from the history changes every view it is part of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rayrec.config.embeddings_section import Embeddings
from rayrec.config.registry import Registry
from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.embeddings.rfm_features import FEATURES, features
from rayrec.embeddings.user_events import Events, Items, ranges
from rayrec.embeddings.word_vocabulary import PAD, Vocabulary

FIELDS = ("event", "age", "value", "band", "size", "gap", "weekday", "part", "month", "number")
"""Numeric fields of the vocabulary; `number`: index of a profile feature."""

_TEXT = 12  # words of an item's text
_FIRST_ITEMS = 4  # of a session
_BANDS = 10  # price bands, of equally many events
_MAX_Z = 3.0  # profile numbers are clipped to this many standard deviations


@dataclass(frozen=True)
class View:
    """One source of some users: `lengths` [users] lines each, oldest first; `words`, `weight` [lines, words]."""

    words: npt.NDArray[np.int32]  # PAD where there is no word
    weight: npt.NDArray[np.float32]
    lengths: npt.NDArray[np.int64]

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        return self.lengths > 0

    def padded(self, users: npt.NDArray[np.integer[Any]], rows: int, length: int) -> PaddedView:
        """Dense tensors of `users`, who have at most `length` lines, in the first of `rows` rows; then padding."""
        offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        counts = self.lengths[users]
        at = ranges(offsets[users], counts)
        row = np.repeat(np.arange(len(users)), counts)
        column = ranges(np.zeros(len(users), np.int64), counts)
        words = np.zeros((rows, length, self.words.shape[1]), np.int64)
        weight = np.zeros(words.shape, np.float32)
        mask = np.zeros((rows, length), np.bool_)
        words[row, column], weight[row, column], mask[row, column] = self.words[at], self.weight[at], True
        return PaddedView(*(torch.from_numpy(array) for array in (words, weight, mask)))


@dataclass(frozen=True)
class PaddedView:
    """One source of some users as dense tensors [rows, length, words], and a mask of the real lines [rows, length]."""

    words: Tensor  # int64
    weight: Tensor  # float32
    mask: Tensor  # bool


@dataclass(frozen=True)
class FeatureScaler:
    """Price bands, and mean and standard deviation of the profile features; learned with the model."""

    bands: tuple[float, ...]  # inner edges of the price bands
    mean: tuple[float, ...]  # [features]
    spread: tuple[float, ...]  # standard deviations, [features]

    @classmethod
    def learn(cls, events: Sequence[Events], items: Items) -> FeatureScaler:
        """Learn from users as of several cutoffs."""
        prices = np.concatenate([items.price[part.item] for part in events])
        prices = prices[~np.isnan(prices)]
        bands = np.unique(np.quantile(prices, np.arange(1, _BANDS) / _BANDS)) if len(prices) else np.empty(0)
        table = np.concatenate([features(part, items) for part in events])
        valid = ~np.isnan(table)
        count = np.maximum(valid.sum(0), 1)
        mean = np.nan_to_num(table).sum(0) / count
        spread = np.sqrt((np.where(valid, table - mean, 0) ** 2).sum(0) / count)
        return cls(tuple(bands.tolist()), tuple(mean.tolist()), tuple(np.maximum(spread, 1e-6).tolist()))

    def as_json(self) -> dict[str, Any]:
        return {"bands": list(self.bands), "mean": list(self.mean), "spread": list(self.spread)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> FeatureScaler:
        return cls(tuple(content["bands"]), tuple(content["mean"]), tuple(content["spread"]))


MakeView = Callable[["ViewBuilder", Events, int], View]
VIEWS: Registry[MakeView] = Registry("embeddings.views.NAME.kind", "view")
"""(builder, events, most lines) -> the view of these users."""


class ViewBuilder:
    """Builds the views of any users over one catalogue."""

    def __init__(self, settings: Embeddings, vocabulary: Vocabulary, scaler: FeatureScaler, items: Items) -> None:
        self.settings, self.items = settings, items
        self._vocabulary, self._scaler = vocabulary, scaler
        self._token = vocabulary.item_tokens(items.item_id)
        self._text = vocabulary.text_matrix(items.text, _TEXT)
        band = np.searchsorted(np.asarray(scaler.bands), items.price).astype(np.float64)
        band[np.isnan(items.price)] = np.nan
        self._band = band

    def __call__(self, events: Events) -> dict[str, View]:
        """Views by source, in the order of the config."""
        return {
            name: VIEWS[source.kind](self, events, source.max_lines) for name, source in self.settings.views.items()
        }

    def newest_events(self, events: Events, max_lines: int) -> View:
        """One line per event, of each user's newest events."""
        rank = events.offsets[1:][events.user] - np.arange(len(events.item))
        return _newest_lines(*self._events(events.filter(rank <= max_lines)), max_lines)

    def disliked(self, events: Events) -> npt.NDArray[np.bool_]:
        disliked: npt.NDArray[np.bool_] = events.weight < 0
        if self.settings.dislike_at_most is not None:
            disliked = disliked | (events.value <= self.settings.dislike_at_most)  # False for NaN
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

    def profile(self, events: Events) -> _Lines:
        """One word per feature, the same for all users, weighted by the feature's value, and a constant word.

        Values are weights instead of bucket words, so that the sum of the line retains them.
        """
        table = features(events, self.items)
        z = np.clip((table - np.asarray(self._scaler.mean)) / np.asarray(self._scaler.spread), -_MAX_Z, _MAX_Z)
        some = events.lengths > 0
        number = self._vocabulary.field_exact("number", np.arange(len(FEATURES) + 1))
        weight = np.concatenate([z, np.ones((len(z), 1))], axis=1)[some]
        words = np.where(np.isnan(weight), PAD, number)
        return words, np.nan_to_num(weight), some.astype(np.int64)

    def rhythm(self, events: Events) -> _Lines:
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
        """Histogram of the pauses between active days; lengths in half octaves of days."""
        pause = np.diff(day, prepend=day[:1]).astype(np.float64)
        same_user = np.diff(events.user, prepend=-1) == 0
        counted = same_user & (pause > 0)
        length = np.minimum(2 * np.log2(np.maximum(pause, 1)), _TEXT - 1).astype(np.int64)
        key = events.user[counted] * _TEXT + length[counted]
        counts = np.bincount(key, minlength=len(events) * _TEXT).reshape(-1, _TEXT)
        words = np.broadcast_to(self._vocabulary.field_exact("gap", np.arange(_TEXT)), counts.shape)
        return words, counts / np.maximum(counts.sum(1), 1)[:, None]

    def sessions(self, events: Events) -> _Lines:
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


def _newest_lines(
    words: npt.NDArray[np.int64], weight: npt.NDArray[np.float64], lengths: npt.NDArray[np.int64], limit: int
) -> View:
    """The newest lines of each user, at most `limit`. Padding gets no weight."""
    last = np.repeat(np.cumsum(lengths), lengths)
    newest = last - np.arange(len(words)) <= limit
    weight = np.where(words == PAD, 0, weight)
    return View(words[newest].astype(np.int32), weight[newest].astype(np.float32), np.minimum(lengths, limit))


@VIEWS.register_as("events")
def events_view(builder: ViewBuilder, events: Events, max_lines: int) -> View:
    """One line per event, without dislikes."""
    return builder.newest_events(events.filter(~builder.disliked(events)), max_lines)


@VIEWS.register_as("dislikes")
def dislikes_view(builder: ViewBuilder, events: Events, max_lines: int) -> View:
    """One line per event that is evidence against an item."""
    return builder.newest_events(events.filter(builder.disliked(events)), max_lines)


@VIEWS.register_as("profile")
def profile_view(builder: ViewBuilder, events: Events, max_lines: int) -> View:
    """Counts, recency and values."""
    return _newest_lines(*builder.profile(events), max_lines)


@VIEWS.register_as("rhythm")
def rhythm_view(builder: ViewBuilder, events: Events, max_lines: int) -> View:
    """Weekdays, parts of the day, months, and pauses between active days."""
    return _newest_lines(*builder.rhythm(events), max_lines)


@VIEWS.register_as("sessions")
def sessions_view(builder: ViewBuilder, events: Events, max_lines: int) -> View:
    """One line per session, without dislikes."""
    return _newest_lines(*builder.sessions(events.filter(~builder.disliked(events))), max_lines)
