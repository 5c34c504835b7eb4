"""Inventory of the files under an output root that hold rows of given users, and removal of these rows.

It covers every parquet and Arrow file with a user column in any folder, known or not, and the examples in reports. It
excludes shuffle files, which are deleted with their folder. What it cannot see, such as the raw text of a quarantined
row, is found by rayrec.pipeline.erasure_search.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rayrec.data.erasure_list import ErasureList
from rayrec.data.quarantine import without_contents
from rayrec.data.schemas import QUARANTINE
from rayrec.errors import DataError
from rayrec.monitoring.request_recognition import without_users
from rayrec.publishing import erasure
from rayrec.reporting.html_report import read_report, write_report
from rayrec.reporting.report_data import USER_TABLES, ReportData
from rayrec.storage import Storage, layout
from rayrec.storage.tables import read_arrow, read_parquet, rows_without, write_arrow, write_parquet

_ROWS = (layout.RUNS, layout.QUARANTINE)  # folders whose files are rewritten in place
_USER = "user_id"


@dataclass(frozen=True)
class UserDataFile:
    path: str
    rows: int
    tokens: frozenset[str]

    @property
    def kind(self) -> str:
        """The top folder: slates, runs, quarantine, ..."""
        return layout.top_folder(self.path)


def find_user_data(storage: Storage, erasure_list: ErasureList) -> list[UserDataFile]:
    """Every file with rows of these users, sorted by path."""
    found = []
    for path, users in _columns(storage):
        listed = erasure_list.contains(users)
        if listed.any():
            found.append(UserDataFile(path, int(np.count_nonzero(listed)), frozenset(erasure_list.tokens_in(users))))
    return found


def erase(
    storage: Storage, paths: Iterable[str], erasure_list: ErasureList, retrained: Mapping[str, str], found: int
) -> int:
    """Remove the users from publications, and from those of `paths` that are run artifacts or quarantine; from every
    quarantine also the contents of rows whose user cannot be read, and from every report what may be theirs.

    `retrained`: see `rayrec.publishing.erasure.erase`. `found`: number of these users that the files held. Returns the
    number of quarantined rows that lost their contents. Repeating a killed call with the same arguments completes it.
    """
    for product in layout.PRODUCTS:
        dates = {date for info in storage.list(product) if (date := layout.path_date(info.path))}
        for date in sorted(dates):
            erasure.erase(storage, product, date, erasure_list, retrained)
    for path in paths:
        if layout.top_folder(path) in _ROWS and storage.exists(path):
            _filter(storage, path, erasure_list)
    for path in filter(layout.is_run_status, _paths(storage, layout.RUNS)):
        storage.delete(path)  # an error may quote a row
    emptied = sum(_empty_quarantine(storage, path, erasure_list) for path in _paths(storage, layout.QUARANTINE))
    for path in _paths(storage, layout.REPORTS):
        if layout.report_data_date(path):
            _rewrite_report(storage, path, erasure_list, found)
    return emptied


def delete_folders(storage: Storage, prefix: str, keep: set[str], depth: int) -> list[str]:
    """Delete the folders at `depth` path parts below `prefix` that are not in `keep`; return their paths."""
    parts = {"/".join(path.split("/")[:depth]) for path in _paths(storage, prefix)}
    doomed = sorted(parts - keep)
    for folder in doomed:
        # Records first: an artifact exists when its record does, and must not outlive its arrays.
        paths = sorted(_paths(storage, folder), key=lambda path: not path.endswith(".json"))
        for path in paths:
            storage.delete(path)
    return doomed


def _columns(storage: Storage) -> Iterator[tuple[str, pa.ChunkedArray]]:
    for path in _paths(storage, ""):
        if layout.top_folder(path) in (layout.MODELS, layout.ERASURE):
            continue
        if path.endswith((".parquet", ".arrow")):
            column = _column(storage, path)
            if len(column):
                yield path, column
        elif layout.report_data_date(path):
            report = _report(storage, path)
            tables = [getattr(report, name).column(_USER) for name in USER_TABLES]
            yield path, pa.chunked_array([chunk for column in tables for chunk in column.chunks], pa.string())


def _column(storage: Storage, path: str) -> pa.ChunkedArray:
    """The users in a file's user columns; empty if it has none or cannot be read."""
    nothing = pa.chunked_array([], pa.string())
    with storage.open(path) as file:
        try:
            if path.endswith(".parquet"):
                parquet = pq.ParquetFile(file)
                table = parquet.read(
                    columns=[name for name in erasure.USER_COLUMNS if name in parquet.schema_arrow.names]
                )
            else:
                table = pa.ipc.open_file(file).read_all()
            users = [table[name].cast(pa.string()) for name in erasure.USER_COLUMNS if name in table.column_names]
            return pa.chunked_array([chunk for column in users for chunk in column.chunks], pa.string())
        except (pa.ArrowException, OSError):
            return nothing


def _filter(storage: Storage, path: str, erasure_list: ErasureList) -> None:
    read, write = (read_parquet, write_parquet) if path.endswith(".parquet") else (read_arrow, write_arrow)
    table = read(storage, path)
    write(storage, path, rows_without(table, erasure.rows_of_users(table, erasure_list)))


def _empty_quarantine(storage: Storage, path: str, erasure_list: ErasureList) -> int:
    """Delete the contents of a quarantine's rows that may be of these users; return the number of rows."""
    if not path.endswith(".parquet"):
        return 0
    table = read_parquet(storage, path)
    if not table.schema.equals(QUARANTINE):
        return 0
    left, emptied = without_contents(table, erasure_list, every_row_without_user=True)
    if emptied:
        write_parquet(storage, path, left)
    return emptied


def _rewrite_report(storage: Storage, path: str, erasure_list: ErasureList, found: int) -> None:
    """Remove the users from a report, and write its page again even if nothing changed: a kill may have left it old."""
    report = _report(storage, path)
    tables = {name: getattr(report, name) for name in USER_TABLES}
    left = {name: rows_without(table, erasure_list.contains(table[_USER])) for name, table in tables.items()}
    examples, _ = without_contents(left["quarantine_examples"], erasure_list, every_row_without_user=True)
    requests = without_users(report.requests, found)
    write_report(dataclasses.replace(report, **left | {"quarantine_examples": examples}, requests=requests), storage)


def _report(storage: Storage, path: str) -> ReportData:
    try:
        return read_report(storage, str(layout.report_data_date(path)))
    except DataError as error:
        raise DataError(
            error.what, where=error.where, hint="delete the report of that date: users cannot be removed from it"
        ) from None


def _paths(storage: Storage, prefix: str) -> list[str]:
    return [info.path for info in storage.list(prefix)]
