"""Validation of a batch of raw rows: columns as text, and the first reason for rejecting each row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import Column, ColumnLike, Timestamp
from rayrec.data import column_parsing
from rayrec.data.id_text import id_text, is_inexact
from rayrec.data.quarantine import malformed_rows, quarantined
from rayrec.data.raw_rows import RawBatch
from rayrec.data.schemas import QUARANTINE
from rayrec.data.text_columns import (
    Text,
    as_text,
    extracted,
    has_invisible_characters,
    has_undecodable_bytes,
    plain,
)
from rayrec.errors import DataError

MAX_ID_CHARS = 256

Mask = npt.NDArray[np.bool_]


def as_column(field: ColumnLike) -> Column:
    """Expand a column that the config gives as a bare name."""
    return field if isinstance(field, Column) else Column(column=field)


_NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)


def read_times(column: pa.ChunkedArray, time: Timestamp, where: str, hint: str) -> tuple[npt.NDArray[np.int64], Mask]:
    """Microseconds UTC [n] and the rows with a valid time. Raises DataError for a type that cannot hold times so."""
    array = plain(column)
    if pa.types.is_dictionary(array.type):
        array = plain(array.dictionary_decode())
    if pa.types.is_large_string(array.type):
        array = array.cast(pa.string())
    try:
        return column_parsing.microseconds(array, format=time.format, unit=time.unit, timezone=time.timezone)
    except column_parsing.UnreadableTimeError as error:
        what = f"the column {time.column!r} cannot be read as times: {error}"
        raise DataError(what, where=where, hint=hint) from None


class RowValidation:
    """The rows of one batch. `flag` adds reasons; the first one of a row counts."""

    def __init__(self, batch: RawBatch, path: str, where: str) -> None:
        self.batch = batch
        self.reason = np.zeros(batch.table.num_rows, np.int16)  # [n]; 0: the row is valid
        self._path, self._where = path, where  # the file in quarantine, and in errors
        self._reasons: list[tuple[str, str]] = [("", "")]  # (reason, column)
        self._texts: dict[str, Text] = {}
        self._extracted: set[str] = set()  # columns of ids that are a part of their text

    @property
    def good(self) -> Mask:
        """[n]"""
        return np.equal(self.reason, 0)

    def flag(self, against: npt.NDArray[np.bool_], reason: str, column: str) -> None:
        self.reason[against & self.good] = len(self._reasons)
        self._reasons.append((reason, column))

    def text(self, field: ColumnLike) -> Text:
        """The field as text, after its `extract` pattern, and with plain numbers if it says how they are written."""
        field = as_column(field)
        if field.column not in self._texts:
            self._texts[field.column] = as_text(self.batch.table[field.column], field.column, self._where)
        part, number = extracted(self._texts[field.column], field.extract), field.number
        return part if number is None else part.map(lambda values: column_parsing.plain_numbers(values, number))

    def ids(self, field: ColumnLike) -> Text:
        """The field as ids (`id_text`), after its `extract` pattern. Raises DataError for unusable types."""
        field = as_column(field)
        if field.extract is not None:
            self._extracted.add(field.column)
        return id_text(self.batch.table[field.column], field.column, self._where, extract=field.extract)

    def reject_invalid_ids(self, ids: Text, column: str) -> Mask:
        """Flag invalid ids; return the rows with a valid id."""
        usable = ids.present
        not_plain = self.batch.not_plain.get(column)
        if not_plain is not None and column not in self._extracted:
            self.flag(not_plain, "not_an_id", column)
            usable = usable & ~not_plain
        wrong: dict[str, Callable[[pa.Array], pa.Array]] = {
            "bad_encoding": has_undecodable_bytes,
            "control_characters": has_invisible_characters,
            "inexact_id": is_inexact,
            "too_long_id": lambda values: pc.greater(pc.utf8_length(values), MAX_ID_CHARS),
        }
        for reason, test in wrong.items():
            against = ids.where(test)
            self.flag(against, reason, column)
            usable = usable & ~against
        return usable

    def numbers(self, field: ColumnLike) -> tuple[npt.NDArray[np.float64], Mask]:
        """The field as float64 [n] (NaN where missing), and the rows with anything but a finite number."""
        field = as_column(field)
        column = self.batch.table[field.column]
        kind = column.type
        if pa.types.is_temporal(kind):
            what = f"the column {field.column!r} holds {kind}, which is no number"
            raise DataError(what, where=self._where, hint="name another column, or write it as a number")
        if field.extract is None and any(test(kind) for test in _NUMBERS):
            return column_parsing.typed_floats(column.combine_chunks())
        whole, part = self.text(field.column), self.text(field)
        values, wrong = column_parsing.floats(part.values)
        return part.look_up(values, np.nan), part.look_up(wrong, False) | (whole.present & ~part.present)

    def quarantine(self, users: Text) -> pa.Table:
        """QUARANTINE of the flagged and the malformed rows."""
        at = np.flatnonzero(~self.good)
        tables = [QUARANTINE.empty_table()]
        if self.batch.malformed:
            tables.append(malformed_rows(self._path, self.batch.malformed))
        if len(at):
            reasons = [self._reasons[code][0] for code in self.reason[at]]
            user_ids = users.to_arrow().take(pa.array(at)).to_pylist()
            tables.append(quarantined(self._path, self.batch, at, reasons, self._details(at), user_ids))
        return pa.concat_tables(tables)

    def _details(self, at: npt.NDArray[np.int64]) -> list[str]:
        details = np.full(len(at), "", object)
        for code in np.unique(self.reason[at]):
            column = self._reasons[code][1]
            rows = np.flatnonzero(self.reason[at] == code)
            shown = as_text(self.batch.table[column].take(pa.array(at[rows])), column, self._where)
            texts = shown.to_arrow().to_pylist()
            details[rows] = [f"{column} is {text[:100]!r}" if text else f"{column} is empty" for text in texts]
        return list(details)
