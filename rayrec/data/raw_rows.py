"""Batches of raw rows as the file readers yield them, each row with its number in the file."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.errors import DataError

MAX_ROW_BYTES = 16 << 20  # a longer row of text means an unclosed quote or another format
MAX_COLUMNS = 10_000  # of a file; a block of each is in memory at once
MAX_BATCH_ROWS = 1 << 18
UNDECODABLE = "�"  # replaces bytes that are invalid in the declared encoding
MAX_RAW_CHARS = 4096  # of a row in quarantine


class Malformed(NamedTuple):
    """A row that cannot be split into its fields."""

    row: int  # 1-based data row within the file
    detail: str
    raw: str


@dataclass(frozen=True)
class RawBatch:
    """Unvalidated rows: strings from text formats, typed columns from parquet."""

    table: pa.Table
    row: npt.NDArray[np.int64]  # [n], 1-based data row within the file; headers and blank lines do not count
    malformed: tuple[Malformed, ...] = ()
    raw: pa.Array | None = None  # string [n]: the JSON objects; None for other formats
    missing: Mapping[str, DataError] = field(default_factory=dict)
    """The columns that the file lacks, which are null here, and the error if every file lacks them. Never of JSON
    lines, whose keys may be left out."""
    not_plain: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    """Column -> bool [n]: JSON objects, lists and truth values, which are here as JSON text and are nobody's id. Only
    columns that have some."""

    def filter(self, mask: npt.NDArray[np.bool_]) -> RawBatch:
        """The rows in mask [n], and all malformed rows."""
        selected = pa.array(mask)
        raw = None if self.raw is None else self.raw.filter(selected)
        not_plain = {column: rows[mask] for column, rows in self.not_plain.items()}
        return RawBatch(self.table.filter(selected), self.row[mask], self.malformed, raw, self.missing, not_plain)


def check_columns(
    present: Sequence[str], columns: Iterable[str], needed: Iterable[str], where: str
) -> dict[str, DataError]:
    """The columns that are missing but not needed, each with the error that says so.

    Raises DataError, with the nearest name, for needed columns that are missing, for columns that occur twice, and for
    more than MAX_COLUMNS columns.
    """
    if len(present) > MAX_COLUMNS:
        raise DataError(
            f"the file has {len(present):,} columns; at most {MAX_COLUMNS:,} can be read",
            where=where,
            hint="check the delimiter, or write a file with fewer columns",
        )
    counts, must = Counter(present), set(needed)
    missing: dict[str, DataError] = {}
    for column in columns:
        if counts[column] > 1:
            listed = _listed(present)
            raise DataError(
                f"the column {column!r} occurs {counts[column]} times: {listed}", where=where, hint="rename one"
            )
        if not counts[column]:
            missing[column] = _no_column(column, present, where)
            if column in must:
                raise missing[column]
    return missing


def cleaned_names(names: Sequence[str], columns: Iterable[str]) -> list[str]:
    """The names of a text file's header without white space around them, unless the config writes it too."""
    exact = set(columns)
    return [name if name in exact else name.strip(" \t\r\n\ufeff") for name in names]


@dataclass
class MissingColumns:
    """Columns that some files of a source lack. A column that no file has is an error of the config."""

    files: int = 0
    by_column: dict[str, list[DataError]] = field(default_factory=dict)

    def add(self, missing: Mapping[str, DataError]) -> None:
        """Count a file that has rows."""
        self.files += 1
        for column, error in missing.items():
            self.by_column.setdefault(column, []).append(error)

    def noted(self, batches: Iterable[RawBatch]) -> Iterator[RawBatch]:
        """The batches of one file, counted."""
        for number, batch in enumerate(batches):
            if not number:
                self.add(batch.missing)
            yield batch

    @property
    def counts(self) -> dict[str, int]:
        """Number of files that lack each column."""
        return {column: len(errors) for column, errors in sorted(self.by_column.items())}

    def check(self) -> None:
        """Raise DataError for a column that every file lacks."""
        for errors in self.by_column.values():
            if len(errors) == self.files:
                raise errors[0]


def _no_column(column: str, present: Sequence[str], where: str) -> DataError:
    listed = _listed(present)
    if "\0" in listed or "\\x00" in listed or UNDECODABLE in listed:
        return DataError(
            f"the header is not text in the given encoding: {listed}", where=where, hint="set the source's encoding"
        )
    near = _nearest(column, present)
    do = f"did you mean {near!r}? Correct the column in the config" if near else "correct the column or delimiter"
    if near == f"'{column}'":
        do = "set the source's quote: \"'\""
    elif present and present[0].startswith("{"):
        do = "this looks like JSON: set the source's format: jsonl"
    elif present and present[0].startswith("#"):
        do = "the first line is a comment: remove such lines from the file"
    for delimiter in _DELIMITERS if len(present) == 1 else ():
        if column in [name.strip(' "') for name in present[0].split(delimiter)][:MAX_COLUMNS]:
            do = f"set the source's delimiter: {json.dumps(delimiter)}"  # YAML reads \t in double quotes only
    return DataError(f"there is no column {column!r}; the columns are {listed or 'none'}", where=where, hint=do)


_DELIMITERS = (",", ";", "\t", "|")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name[:60]) for name in names[:30]) + (", ..." if len(names) > 30 else "")


def _nearest(column: str, present: Sequence[str]) -> str | None:
    """The name that differs only in case, spaces and punctuation, else the most similar one."""
    plain = {_plain(name): name for name in reversed(present)}
    if same := plain.get(_plain(column)):
        return same
    near = difflib.get_close_matches(_plain(column), plain, n=1)
    return plain[near[0]] if near else None


def _plain(name: str) -> str:
    return "".join(char for char in name[:200].casefold() if char.isalnum())
