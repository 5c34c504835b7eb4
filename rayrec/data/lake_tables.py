"""Files of lake tables: a table's folder also holds files that it removed, so only its log tells which are data.

Delta tables and the folders of Spark streaming sinks are read through their logs. Tables in the Iceberg, Hudi and
Paimon formats are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from rayrec.data import delta_log, streaming_log
from rayrec.data.source_paths import SourcePath
from rayrec.errors import DataError, StorageError, TransientStorageError
from rayrec.storage import FileInfo, Storage

DELTA, STREAMING = "Delta", "Spark streaming"
_MARKERS = {
    DELTA: re.compile(r"^(?:(.*)/)?_delta_log/[^/]+$"),
    STREAMING: re.compile(r"^(?:(.*)/)?_spark_metadata/\d+(?:\.compact)?$"),
    "Iceberg": re.compile(r"^(?:(.*)/)?metadata/[^/]+\.metadata\.json(?:\.gz)?$"),
    "Hudi": re.compile(r"^(?:(.*)/)?\.hoodie/hoodie\.properties$"),
    "Paimon": re.compile(r"^(?:(.*)/)?schema/schema-\d+$"),
}
"""A file of each format, first the one to follow if there are two; the group is the table's folder."""

_FIRST_FILES = {
    DELTA: ("_delta_log/_last_checkpoint", "_delta_log/00000000000000000000.json"),
    "Iceberg": ("metadata/version-hint.text",),
    "Hudi": (".hoodie/hoodie.properties",),
    "Paimon": ("schema/schema-0",),
}
"""Files that show the format of folders that are not listed: those above the data."""

_LOG_FOLDERS = ("_spark_metadata", "metadata")
"""Folders of formats without such a file."""


@dataclass(frozen=True)
class LakeTable:
    format: str
    url: str  # of its folder


def tables_of(storage: Storage, source: SourcePath, listed: Iterable[FileInfo]) -> dict[str, LakeTable]:
    """The tables below the listed folder and around it, by URL. `listed`: all files, hidden ones too."""
    found = [*_above(storage, source.folder), *_within(storage, listed)]
    by_rank = sorted(found, key=lambda table: list(_MARKERS).index(table.format), reverse=True)
    return {table.url: table for table in by_rank}


def live_files(
    storage: Storage, source: SourcePath, files: Sequence[FileInfo], tables: dict[str, LakeTable]
) -> list[FileInfo]:
    """The files without those that their table's log does not name.

    A file that the path names and that is no parquet file is none of a table's. Raises DataError for tables that
    cannot be read, and for files that a log names and that are missing.
    """
    kept, logs = [], dict[str, frozenset[str]]()
    for file in files:
        url = storage.url(file.path)
        table = next((tables[folder] for folder in _folders(url) if folder in tables), None)
        if table is None or (source.names(file.path) and not url.endswith(".parquet")):
            kept.append(file)
            continue
        if table.url not in logs:
            logs[table.url] = _log(table)
        name = url.rpartition("/")[2] if table.format == STREAMING else url.removeprefix(f"{table.url}/")
        if name in logs[table.url]:
            kept.append(file)
    for url, names in logs.items():
        if tables[url].format == DELTA:
            _require_present(storage, source, url, names, {file.path for file in files})
    return kept


def _within(storage: Storage, listed: Iterable[FileInfo]) -> Iterator[LakeTable]:
    for file in listed:
        for format, marker in _MARKERS.items():
            if found := marker.match(file.path):
                yield LakeTable(format, storage.url(found[1] or ""))


def _above(storage: Storage, folder: str) -> Iterator[LakeTable]:
    """Tables that a folder lies in; also above the root, which may be a part of a table."""
    scheme, separator, path = storage.url(folder).rpartition("://")
    depth = len(PurePosixPath(folder).parts)  # folders up to the root
    for level, parent in enumerate(PurePosixPath(path).parents):
        if not parent.name:
            continue
        # Up to the root's parent, where listing a folder is no surprise.
        logs = _LOG_FOLDERS if level <= depth else ()
        try:
            yield from _tables_at(Storage(f"{scheme}{separator}{parent}"), logs)
        except TransientStorageError:
            raise
        except StorageError:
            if level < depth:
                raise
            # Often there is no right to look above the root.


def _tables_at(above: Storage, logs: Sequence[str]) -> Iterator[LakeTable]:
    for format, names in _FIRST_FILES.items():
        if any(above.exists(name) for name in names):
            yield LakeTable(format, above.root)
    for log in logs:
        yield from (table for table in _within(above, above.list(log)) if table.url == above.root)


def _folders(url: str) -> Iterator[str]:
    """The folders above a file, nearest first."""
    while "/" in url:
        url = url.rpartition("/")[0]
        yield url


def _log(table: LakeTable) -> frozenset[str]:
    """The files that a table consists of: paths relative to it; of a streaming sink only the names."""
    if table.format == DELTA:
        return delta_log.live_files(Storage(table.url))
    if table.format == STREAMING:
        return streaming_log.committed_names(Storage(table.url))
    raise DataError(
        f"this is a table in the {table.format} format, whose folder also holds files that are not data any more",
        where=table.url,
        hint="export its rows as plain parquet files (in Spark: spark.table(...).write.parquet(...)) and name that "
        "folder",
    )


def _require_present(
    storage: Storage, source: SourcePath, table: str, names: frozenset[str], present: set[str]
) -> None:
    """Raise DataError if a Delta log names files that the path stands for and that are missing."""
    root = f"{storage.url().rstrip('/')}/"
    paths = (url.removeprefix(root) for name in names if (url := f"{table}/{name}").startswith(root))
    missing = sorted(path for path in paths if source.matches(path) and path not in present)
    if missing:
        raise DataError(
            f"the Delta table's log names {len(missing)} files that are missing, such as {missing[0]}",
            where=table,
            hint="restore them, or repair the table (in Spark: FSCK REPAIR TABLE)",
        )
