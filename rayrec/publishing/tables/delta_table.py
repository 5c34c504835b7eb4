"""A Delta table in the folder of the slates, whose log names the published files.

The table is `<output root>/slates`: paths in a log are relative to the table, and most readers follow no others. A
version is one conditional create of the next file of the log, which is how Delta itself orders writers; so a day with
other files (after an erasure) replaces its old files in one version. Format: the Delta transaction log protocol
(https://github.com/delta-io/delta/blob/master/PROTOCOL.md), reader version 1, writer version 2.
"""

from __future__ import annotations

import datetime
import json
import time
import uuid
from collections.abc import Collection, Sequence
from typing import Any

from rayrec.data.delta_log import DeltaLog, read_log
from rayrec.data.schemas import SLATE
from rayrec.errors import ConfigError, StorageError
from rayrec.publishing.records import PublishedFile
from rayrec.publishing.tables.table_format import PARTITION_COLUMNS, TABLE_FORMATS, TABLE_NAME, TableFormat
from rayrec.storage import Storage, layout

_WRITER_VERSION = 2
_READER_VERSION = 1
_CONFIGURATION = {
    # VACUUM deletes old files of the folder that the log does not name. Manifests are such files.
    "delta.deletedFileRetentionDuration": "interval 36500 days",
    # Statistics hold the smallest and largest values: ids of users.
    "delta.dataSkippingNumIndexedCols": "0",
}


@TABLE_FORMATS.register
class DeltaTableFormat(TableFormat):
    """A Delta table at `slates/` under the output root. Needs the package `deltalake`: `pip install 'rayrec[lake]'`."""

    name = "delta"

    def __init__(self, storage: Storage, settings: Any) -> None:
        super().__init__(storage, settings)
        try:
            import deltalake  # noqa: F401
        except ImportError:
            raise ConfigError(
                "the package `deltalake` is not installed",
                where="output.tables",
                hint="pip install 'rayrec[lake]', or remove the Delta table from output.tables",
            ) from None
        self._table = Storage(storage.url(layout.SLATES))
        self._seen: DeltaLog | None = None

    @classmethod
    def exists_by_default(cls, storage: Storage) -> bool:
        return bool(storage.list(layout.DELTA_LOG))

    def files(self) -> dict[str, datetime.date]:
        self._seen = read_log(self._table) if self.exists_by_default(self.storage) else None
        if self._seen is None:
            return {}
        paths = [f"{layout.SLATES}/{path}" for path in self._seen.files]
        return {path: date for path in paths if (date := layout.path_date(path)) is not None}

    def commit(self, date: datetime.date, added: Sequence[PublishedFile], removed: Collection[str]) -> bool:
        now = time.time_ns() // 1_000_000
        actions: list[dict[str, Any]] = [_commit_info(now, date, len(added), len(removed))]
        if self._seen is None:
            actions += _creation(now)
        elif self._seen.writer_version > _WRITER_VERSION:
            raise StorageError(
                f"the Delta table needs writer version {self._seen.writer_version}, and rayrec writes version"
                f" {_WRITER_VERSION}",
                where=self._table.root,
                hint="a feature was added to the table; drop the table (delete its _delta_log) and run the job again, "
                "which registers every published date",
            )
        actions += [{"remove": _removal(path, now)} for path in sorted(removed)]
        actions += [{"add": _addition(file, date, now)} for file in added]
        version = 0 if self._seen is None else self._seen.version + 1
        lines = "".join(json.dumps(action, separators=(",", ":")) + "\n" for action in actions)
        if not self.storage.create(layout.delta_version_path(version), lines.encode()):
            return False
        files = frozenset() if self._seen is None else self._seen.files
        files = (files - {_in_table(path) for path in removed}) | {_in_table(file.path) for file in added}
        self._seen = DeltaLog(files, version, _WRITER_VERSION)
        return True


def _in_table(path: str) -> str:
    return path.removeprefix(f"{layout.SLATES}/")


def _commit_info(now: int, date: datetime.date, added: int, removed: int) -> dict[str, Any]:
    parameters = {"mode": "Append" if not removed else "Overwrite", "date": date.isoformat()}
    metrics = {"numFiles": str(added), "numRemovedFiles": str(removed)}
    return {
        "commitInfo": {
            "timestamp": now,
            "operation": "WRITE",
            "operationParameters": parameters,
            "operationMetrics": metrics,
            "engineInfo": "rayrec",
        }
    }


def _creation(now: int) -> list[dict[str, Any]]:
    """The first actions of a table: its protocol and its schema."""
    from deltalake import Schema

    metadata = {
        "id": str(uuid.uuid4()),
        "name": TABLE_NAME,
        "format": {"provider": "parquet", "options": {}},
        "schemaString": Schema.from_arrow(SLATE).to_json(),
        "partitionColumns": list(PARTITION_COLUMNS),
        "configuration": _CONFIGURATION,
        "createdTime": now,
    }
    versions = {"minReaderVersion": _READER_VERSION, "minWriterVersion": _WRITER_VERSION}
    return [{"protocol": versions}, {"metaData": metadata}]


def _addition(file: PublishedFile, date: datetime.date, now: int) -> dict[str, Any]:
    # The characters of arms and attempts need no escapes in a URL (rayrec.publishing.records).
    return {
        "path": _in_table(file.path),
        "partitionValues": {"dt": date.isoformat(), "arm": file.arm},
        "size": file.bytes,
        "modificationTime": now,
        "dataChange": True,
        "stats": json.dumps({"numRecords": file.rows}),
    }


def _removal(path: str, now: int) -> dict[str, Any]:
    return {"path": _in_table(path), "deletionTimestamp": now, "dataChange": True}
