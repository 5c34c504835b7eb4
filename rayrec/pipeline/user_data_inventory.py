"""Inventory of the files under an output root that hold rows of given users, and removal of these rows.

The search covers every parquet and Arrow file with a user column in any folder, known or not, and the examples in
reports. It excludes shuffle files, which are deleted with their folder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rayrec.data.erasure_list import ErasureList
from rayrec.errors import DataError
from rayrec.publishing import erasure
from rayrec.reporting.html_report import read_report, write_report
from rayrec.reporting.report_data import ReportData
from rayrec.storage import Storage, layout
from rayrec.storage.tables import read_arrow, read_parquet, write_arrow, write_parquet

_ROWS = (layout.RUNS, layout.QUARANTINE)  # folders whose files are rewritten in place
_EXAMPLES = ("quarantine_examples", "removed_examples", "examples", "before_after")  # keys of a report
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


def rows_without_user(storage: Storage) -> int:
    """Number of quarantined rows whose user could not be read: they may belong to any user."""
    files = (path for path in _paths(storage, layout.QUARANTINE) if path.endswith(".parquet"))
    return sum(_column(storage, path).null_count for path in files)


def erase(storage: Storage, paths: Iterable[str], erasure_list: ErasureList, retrained: Mapping[str, str]) -> None:
    """Remove the users from publications, and from those of `paths` that are run artifacts, quarantine or reports.

    `retrained`: see `rayrec.publishing.erasure.erase`. Repeating a killed call with the same paths completes it.
    """
    for product in layout.PRODUCTS:
        dates = {date for info in storage.list(product) if (date := layout.path_date(info.path))}
        for date in sorted(dates):
            erasure.erase(storage, product, date, erasure_list, retrained)
    for path in paths:
        if layout.top_folder(path) in _ROWS and storage.exists(path):
            _filter(storage, path, erasure_list)
        elif layout.report_data_date(path) and storage.exists(path):
            _rewrite_report(storage, path, erasure_list)


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
            tables = [getattr(report, name).column(_USER) for name in _EXAMPLES]
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
    write(storage, path, table.filter(pa.array(~erasure_list.contains(table[_USER]))))


def _rewrite_report(storage: Storage, path: str, erasure_list: ErasureList) -> None:
    report = _report(storage, path)
    tables = {name: getattr(report, name) for name in _EXAMPLES}
    left = {name: table.filter(pa.array(~erasure_list.contains(table[_USER]))) for name, table in tables.items()}
    write_report(dataclasses.replace(report, **left), storage)


def _report(storage: Storage, path: str) -> ReportData:
    try:
        return read_report(storage, str(layout.report_data_date(path)))
    except DataError as error:
        raise DataError(
            error.what, where=error.where, hint="delete the report of that date: users cannot be removed from it"
        ) from None


def _paths(storage: Storage, prefix: str) -> list[str]:
    return [info.path for info in storage.list(prefix)]
