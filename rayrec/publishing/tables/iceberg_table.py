"""An Iceberg table whose snapshots name the published files.

A snapshot removes and adds the files of one day in one step. Only the bounds of `dt` and `arm` are kept in the
metadata, no values of users. Iceberg has no 16-bit integers: `rank` is an int there.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import Field

from rayrec.config.section import MethodSettings
from rayrec.data.schemas import SLATE
from rayrec.errors import ConfigError, StorageError
from rayrec.publishing.records import PublishedFile
from rayrec.publishing.tables.table_format import PARTITION_COLUMNS, TABLE_FORMATS, TABLE_NAME, TableFormat
from rayrec.storage import Storage, layout

_LOCAL_CATALOG = "rayrec"
_EPOCH = datetime.date(1970, 1, 1)
_PROPERTIES = {
    "write.metadata.metrics.default": "none",  # bounds are values: ids of users
    **{f"write.metadata.metrics.column.{column}": "full" for column in PARTITION_COLUMNS},
    # A metadata file lists every snapshot: kept for good, they would grow with the square of the dates.
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
    "gc.enabled": "false",  # expiring snapshots must not delete published files
}


class IcebergSettings(MethodSettings):
    """Which table of which catalog."""

    catalog: str | None = None
    """Name of a catalog in pyiceberg's own configuration (`.pyiceberg.yaml`, or the environment:
    `PYICEBERG_CATALOG__NAME__URI`), which has its URI and credentials; `null`: a SQLite file in `iceberg/` of a
    local output root."""
    namespace: str = Field("rayrec", pattern=r"^\w+(\.\w+)*$")
    """Namespace of the table; it is created if it is missing."""
    table: str = Field(TABLE_NAME, pattern=r"^\w+$")
    """Name of the table."""


@TABLE_FORMATS.register
class IcebergTableFormat(TableFormat):
    """A table of an Iceberg catalog. Needs the package `pyiceberg`: `pip install 'rayrec[lake]'`."""

    name = "iceberg"
    settings_class = IcebergSettings

    def __init__(self, storage: Storage, settings: IcebergSettings) -> None:
        super().__init__(storage, settings)
        try:
            import pyiceberg  # noqa: F401
        except ImportError:
            raise ConfigError(
                "the package `pyiceberg` is not installed",
                where="output.tables",
                hint="pip install 'rayrec[lake]', or remove the Iceberg table from output.tables",
            ) from None
        if settings.catalog is None and not storage.is_local:
            raise ConfigError(
                "an Iceberg table of a remote output root needs a catalog",
                where="output.tables: settings.catalog",
                hint="name a catalog of pyiceberg's configuration, such as a REST catalog",
            )
        self._catalog_name = settings.catalog
        self._identifier = (*settings.namespace.split("."), settings.table)
        self._seen: Any = None  # pyiceberg.table.Table, as of the last call of `files`
        self._data_files: dict[str, Any] = {}  # by path

    @classmethod
    def exists_by_default(cls, storage: Storage) -> bool:
        return storage.is_local and storage.exists(layout.ICEBERG_CATALOG)

    def files(self) -> dict[str, datetime.date]:
        from pyiceberg.exceptions import NoSuchTableError

        with self._explained():
            try:
                self._seen = self._catalog().load_table(self._identifier)
            except NoSuchTableError:
                self._seen, self._data_files = None, {}
                return {}
            prefix = self.storage.url().rstrip("/") + "/"
            tasks = [task.file for task in self._seen.scan().plan_files()]
            self._data_files = {_path(file.file_path, prefix): file for file in tasks}
        days = {path: file.partition[0] for path, file in self._data_files.items()}
        return {path: _EPOCH + datetime.timedelta(days=day) for path, day in days.items()}

    def commit(self, date: datetime.date, added: Sequence[PublishedFile], removed: Collection[str]) -> bool:
        from pyiceberg.exceptions import CommitFailedException, TableAlreadyExistsError
        from pyiceberg.io.pyarrow import parquet_files_to_data_files

        with self._explained():
            urls = [self.storage.url(file.path) for file in added]
            try:
                table = self._created() if self._seen is None else self._seen
                with table.transaction() as transaction:
                    new = parquet_files_to_data_files(table.io, transaction.table_metadata, iter(urls))
                    changes = transaction.update_snapshot(snapshot_properties={"rayrec.date": date.isoformat()})
                    with changes.overwrite() as update:
                        for path in removed:
                            update.delete_data_file(self._data_files[path])
                        for file in new:
                            update.append_data_file(file)
            except (CommitFailedException, TableAlreadyExistsError):
                return False
        self.files()
        return True

    def _created(self) -> Any:
        from pyiceberg.table import TableProperties

        catalog = self._catalog()
        catalog.create_namespace_if_not_exists(self._identifier[:-1])
        with catalog.create_table_transaction(self._identifier, schema=SLATE, properties=_PROPERTIES) as creation:
            with creation.update_spec() as partitions:
                for column in PARTITION_COLUMNS:
                    partitions.add_identity(column)
            # The published files have no field ids: columns are found by name.
            names = creation.table_metadata.schema().name_mapping.model_dump_json()
            creation.set_properties({TableProperties.DEFAULT_NAME_MAPPING: names})
        return catalog.load_table(self._identifier)

    def _catalog(self) -> Any:
        from pyiceberg.catalog import load_catalog

        if self._catalog_name is not None:
            return load_catalog(self._catalog_name)
        os.makedirs(self.storage.url(layout.ICEBERG), exist_ok=True)
        uri = f"sqlite:///{self.storage.url(layout.ICEBERG_CATALOG)}"
        warehouse = f"file://{self.storage.url(layout.ICEBERG)}"
        return load_catalog(_LOCAL_CATALOG, type="sql", uri=uri, warehouse=warehouse)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Errors of pyiceberg and of its clients as StorageErrors."""
        try:
            yield
        except StorageError:
            raise
        except Exception as error:  # of the catalog's client: SQL, HTTP, ...
            raise StorageError(
                f"the Iceberg table {'.'.join(self._identifier)} failed: {type(error).__name__}: {error}",
                where=self._catalog_name or self.storage.url(layout.ICEBERG_CATALOG),
                hint="check the catalog in pyiceberg's configuration, and run the job again",
            ) from error


def _path(url: str, prefix: str) -> str:
    """The path of a data file under the output root; a file elsewhere keeps its URL."""
    return url.removeprefix("file://").removeprefix(prefix)
