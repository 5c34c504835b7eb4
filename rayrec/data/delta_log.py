"""The files that a Delta table consists of, from its log, with the package `deltalake`.

The log is copied to a temporary folder first, so that every store is read with the same client and credentials as the
data, and no file outside the table is opened.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

import pyarrow as pa

from rayrec.data.source_paths import partition_columns
from rayrec.errors import DataError
from rayrec.storage import Storage

_FOLDER = "_delta_log"
_LAST_CHECKPOINT = f"{_FOLDER}/_last_checkpoint"
_VERSION = re.compile(r"^(\d{20})\.")
_PARALLEL_READS = 16


class DeltaLog(NamedTuple):
    """The newest version of a table."""

    files: frozenset[str]  # paths relative to the table
    version: int
    writer_version: int  # of the protocol that a writer needs


def live_files(table: Storage) -> frozenset[str]:
    """Paths relative to the table, newest version. Raises DataError like `read_log`."""
    return read_log(table).files


def read_log(table: Storage) -> DeltaLog:
    """The newest version. Raises DataError, with the reason, for tables whose files alone are not the rows: with
    deletion vectors, mapped columns, or files outside the table."""
    try:
        from deltalake import DeltaTable
    except ImportError:
        raise DataError(
            "this is a Delta table, and the package that reads its log is not installed",
            where=table.root,
            hint="pip install 'rayrec[lake]', or export the rows as plain parquet files and name that folder",
        ) from None
    with tempfile.TemporaryDirectory(prefix="rayrec-") as folder:
        _copy_log(table, Path(folder))
        try:
            log = DeltaTable(folder)
            mapping = log.metadata().configuration.get("delta.columnMapping.mode") or "none"
            partitions = log.metadata().partition_columns
            paths = [unquote(path) for path in pa.table(log.get_add_actions())["path"].to_pylist()]
            version, writer_version = log.version(), log.protocol().min_writer_version
            has_vectors = pa.table(log.deletion_vectors()).num_rows > 0 if _may_have_vectors(log.protocol()) else False
        except Exception as error:  # of the package's own types
            raise _unreadable(table, _reason(error)) from error
    if has_vectors:
        raise _unreadable(table, "rows are deleted by deletion vectors (in Spark: REORG TABLE ... APPLY (PURGE))")
    if mapping != "none":
        raise _unreadable(table, f"its columns have other names in the files (column mapping by {mapping})")
    _require_plain(table, paths, partitions)
    return DeltaLog(frozenset(paths), version, writer_version)


def _may_have_vectors(protocol: object) -> bool:
    return "deletionVectors" in (getattr(protocol, "reader_features", None) or ())


def _copy_log(table: Storage, folder: Path) -> None:
    """Copy the log from its newest checkpoint on."""
    first = _checkpoint_version(table)
    names = [PurePosixPath(file.path) for file in table.list(_FOLDER)]
    wanted = [path for path in names if (found := _VERSION.match(path.name)) is None or int(found[1]) >= first]

    def copy(path: PurePosixPath) -> None:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(table.read(str(path)))

    with ThreadPoolExecutor(_PARALLEL_READS) as readers:
        list(readers.map(copy, wanted))


def _checkpoint_version(table: Storage) -> int:
    if not table.exists(_LAST_CHECKPOINT):
        return 0
    try:
        return int(json.loads(table.read(_LAST_CHECKPOINT))["version"])
    except (ValueError, KeyError, TypeError):
        return 0


def _require_plain(table: Storage, paths: Sequence[str], partitions: Sequence[str]) -> None:
    for path in paths:
        if "://" in path or path.startswith("/") or ".." in PurePosixPath(path).parts:
            raise _unreadable(table, f"it has files outside its folder, such as {path} (a shallow clone)")
        if lacking := set(partitions) - set(partition_columns(path)):
            raise _unreadable(table, f"the path {path} does not show the partition {sorted(lacking)[0]}")


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _unreadable(table: Storage, reason: str) -> DataError:
    return DataError(
        f"the log of this Delta table cannot be followed: {reason}",
        where=table.url(_FOLDER),
        hint="export its rows as plain parquet files (in Spark: spark.table(...).write.parquet(...)) and name that "
        "folder",
    )
