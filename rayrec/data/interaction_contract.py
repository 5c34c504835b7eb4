"""The contract of interactions: every raw row is an interaction, in quarantine, or outside the window.

A quarantined row has one reason: the first check, in code order, that it fails. Rows outside the window are counted
before any other check.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import ColumnLike, Data, EventRule, Timestamp, regex_patterns
from rayrec.config.data_section import shown_event
from rayrec.data.catalogue import count_items, item_fields
from rayrec.data.input_files import InputFile
from rayrec.data.raw_rows import RawBatch
from rayrec.data.row_validation import Mask, RowValidation, as_column, read_times
from rayrec.data.schemas import ALL_USERS, INTERACTION, TS
from rayrec.data.text_columns import Text, clean_item_text

_MAX_DWELL = (1 << 31) - 1  # milliseconds; 24 days
_ORGANIC = {"true": 1, "1": 1, "1.0": 1, "false": 0, "0": 0, "0.0": 0}
_MAX_VALUE = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class ValidatedBatch:
    """A validated batch: rows read = accepted + quarantine.num_rows + outside_window."""

    interactions: pa.Table  # INTERACTION: accepted rows, and rejected ones with a usable user, in order
    quarantine: pa.Table  # QUARANTINE
    accepted: int
    outside_window: int
    items: pa.Table | None  # ITEM_COUNTS of the accepted rows, if the catalogue is made from interactions


@dataclass(frozen=True)
class InteractionContract:
    """`day`: the run's date. `items`: the catalogue's item_ids; None if the catalogue is made from interactions."""

    data: Data
    day: date
    items: pa.StringArray | None = None

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The raw columns to read."""
        source = self.data.interactions
        fields: list[ColumnLike | None] = [source.user_id, source.item_id, self._time.column, source.value]
        fields += [source.dwell_ms, source.organic, source.event.column, *(rule.column for rule in source.event.rules)]
        fields += [requirement.column for requirement in source.require]
        fields += item_fields(self.data.items).values() if self.data.items.from_interactions else ()
        return tuple(dict.fromkeys(as_column(field).column for field in fields if field is not None))

    @cached_property
    def needed(self) -> tuple[str, ...]:
        """Columns without which no row could be accepted. JSON lines may lack all others."""
        source = self.data.interactions
        fields = (source.user_id, source.item_id, self._time.column, *(each.column for each in source.require))
        return tuple(dict.fromkeys(as_column(field).column for field in fields))

    def check(self, batch: RawBatch, file: InputFile, where: str) -> ValidatedBatch:
        """Validate a batch; independent of how a file is batched. Raises DataError for unusable columns."""
        ts, timed = self._times(batch.table[self._time.column], where)
        outside = timed & ((ts < self._window[0]) | (ts >= self._window[1]))
        if outside.any():
            batch, ts, timed = batch.filter(~outside), ts[~outside], timed[~outside]
        rows = RowValidation(batch, file.path, where)
        user, item = rows.ids(self.data.interactions.user_id), rows.ids(self.data.interactions.item_id)
        usable = self._check_ids(rows, user, item)
        rows.flag(~timed, "bad_time", self._time.column)
        self._check_requirements(rows)
        event = self._events(rows)
        self._check_items(rows, item)
        value, dwell = self._values(rows), self._dwells(rows)
        good = rows.good
        columns = [
            user.to_arrow(),
            item.only(good).to_arrow(),
            pa.array(ts, mask=~timed).cast(TS),
            pa.array(event, pa.int8(), mask=~good),
            value,
            dwell,
            np.full(len(good), file.index, np.int32),
            batch.row,
            ~good,
        ]
        return ValidatedBatch(
            pa.table(columns, schema=INTERACTION).filter(pa.array(usable)),
            rows.quarantine(user.only(usable)),
            int(good.sum()),
            int(outside.sum()),
            self._count_items(rows, item.only(good)) if self.data.items.from_interactions else None,
        )

    @cached_property
    def _time(self) -> Timestamp:
        ts = self.data.interactions.ts
        return ts if isinstance(ts, Timestamp) else Timestamp(column=ts)

    @cached_property
    def _window(self) -> tuple[int, int]:
        end = int(datetime(self.day.year, self.day.month, self.day.day, tzinfo=UTC).timestamp()) * 1_000_000
        return end - int(timedelta(days=self.data.window_days).total_seconds()) * 1_000_000, end

    def _times(self, column: pa.ChunkedArray, where: str) -> tuple[npt.NDArray[np.int64], Mask]:
        return read_times(column, self._time, where, "see data.interactions.ts")

    def _check_ids(self, rows: RowValidation, user: Text, item: Text) -> Mask:
        """Flag bad ids; returns the rows with a usable user."""
        user_column, item_column = (
            as_column(field).column for field in (self.data.interactions.user_id, self.data.interactions.item_id)
        )
        rows.flag(~user.present, "no_user", user_column)
        rows.flag(~item.present, "no_item", item_column)
        usable = rows.reject_invalid_ids(user, user_column)
        reserved = user.where(lambda values: pc.equal(values, ALL_USERS))
        rows.flag(reserved, "reserved_user", user_column)
        rows.reject_invalid_ids(item, item_column)
        return usable & ~reserved

    def _check_requirements(self, rows: RowValidation) -> None:
        for each in self.data.interactions.require:
            rows.flag(~rows.text(each.column).where(_finder(each.matches)), each.reason, each.column)

    def _check_items(self, rows: RowValidation, item: Text) -> None:
        if self._known_items is None:
            return
        known: Mask = self._known_items.get_indexer(pd.Index(item.values.to_pylist(), dtype=object)) >= 0
        rows.flag(~item.look_up(known, False), "unknown_item", as_column(self.data.interactions.item_id).column)

    @cached_property
    def _known_items(self) -> pd.Index | None:
        # Built once: Arrow's index_in would hash the whole catalogue for every batch.
        return None if self.items is None else pd.Index(self.items.to_pylist(), dtype=object)

    def _events(self, rows: RowValidation) -> npt.NDArray[np.int8]:
        """Index into data.events [n], -1 where unknown."""
        names, rules = list(self.data.events), self.data.interactions.event
        fallback = names.index(rules.default) if rules.default in names else -1
        codes = np.full(len(rows.reason), fallback, np.int8)
        if rules.column:
            text = rows.text(rules.column)
            named = np.array([names.index(v) if v in names else -1 for v in text.values.to_pylist()], np.int8)
            codes = text.look_up(named, fallback)
        for rule in reversed(rules.rules):  # the first match wins
            codes[rows.text(rule.column).where(_test_of(rule))] = names.index(rule.event)
        column = rules.column or (rules.rules[-1].column if rules.rules else self._time.column)
        rows.flag(codes < 0, "unknown_event", column)
        return self._shown(rows, codes)

    def _shown(self, rows: RowValidation, codes: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
        """Event codes [n] with those of items that were shown to the user replaced by their `NAME (shown)`."""
        field = self.data.interactions.organic
        if field is None:
            return codes
        names = list(self.data.events)
        variant = np.arange(len(names), dtype=np.int8)
        for place, name in enumerate(names):
            if (of := shown_event(name)) in names:
                variant[names.index(of)] = place
        text = rows.text(field)
        words = [value.lower() for value in text.values.to_pylist()]
        organic = text.look_up(np.array([_ORGANIC.get(word, -1) for word in words], np.int8), 1)
        rows.flag(organic < 0, "bad_organic", as_column(field).column)
        return np.where((organic == 0) & (codes >= 0), variant[np.maximum(codes, 0)], codes)

    def _values(self, rows: RowValidation) -> npt.NDArray[np.float32]:
        field = self.data.interactions.value
        if field is None:
            return np.full(len(rows.reason), np.nan, np.float32)
        values, wrong = rows.numbers(field)
        too_large = np.abs(values) > _MAX_VALUE
        rows.flag(wrong | too_large, "bad_value", as_column(field).column)
        return np.where(too_large, np.nan, values).astype(np.float32)

    def _dwells(self, rows: RowValidation) -> npt.NDArray[np.int32]:
        field = self.data.interactions.dwell_ms
        if field is None:
            return np.full(len(rows.reason), -1, np.int32)
        values, wrong = rows.numbers(field)
        rows.flag(wrong | (values > _MAX_DWELL), "bad_dwell", as_column(field).column)
        rows.flag(values < 0, "negative_dwell", as_column(field).column)
        fits = (values >= 0) & (values <= _MAX_DWELL)  # false for NaN
        return np.where(fits, np.rint(np.where(fits, values, 0)), -1).astype(np.int32)

    def _count_items(self, rows: RowValidation, item: Text) -> pa.Table:
        fields = item_fields(self.data.items)
        return count_items(item, {name: clean_item_text(rows.text(field), name) for name, field in fields.items()})


def _finder(pattern: str) -> Callable[[pa.Array], pa.Array]:
    return lambda values: regex_patterns.matches(values, pattern)


def _test_of(rule: EventRule) -> Callable[[pa.Array], pa.Array]:
    if rule.matches is not None:
        return _finder(rule.matches)
    if rule.starts_with is not None:
        return lambda values: pc.starts_with(values, rule.starts_with)
    return lambda values: pc.equal(values, rule.equals)
