"""`TableFormat`: a table, in a format of data lakes, that consists of the files of published days."""

from __future__ import annotations

import datetime
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

from rayrec.config.registry import Registry
from rayrec.config.section import MethodSettings, NoSettings
from rayrec.publishing.records import PublishedFile
from rayrec.storage import Storage

TABLE_NAME = "slates"
PARTITION_COLUMNS = ("dt", "arm")  # of every table; the folders of published files name them too


class TableFormat(ABC):
    """One table under an output root. Its files are the published ones: no row is copied.

    A format keeps no values of users in its own files (statistics of columns, for example), since an erasure removes
    users from the published files only.
    """

    name: ClassVar[str]
    settings_class: ClassVar[type[MethodSettings]] = NoSettings

    def __init__(self, storage: Storage, settings: Any) -> None:
        """Raises ConfigError if the table cannot be written with these settings, or the package for it is missing."""
        self.storage = storage

    @classmethod
    @abstractmethod
    def exists_by_default(cls, storage: Storage) -> bool:
        """Whether a table that default settings made is under this root."""

    @abstractmethod
    def files(self) -> dict[str, datetime.date]:
        """The files of the newest version and their dates; empty if there is no table yet.

        A path is relative to the output root. Files that others added are among them, by their partition.

        Raises StorageError or DataError for a table that cannot be read.
        """

    @abstractmethod
    def commit(self, date: datetime.date, added: Sequence[PublishedFile], removed: Collection[str]) -> bool:
        """Make one version with these changes to a date; create the table if there is none.

        `removed`: of the paths that the last call of `files` gave. Returns False, without any change, if another
        writer made a version since that call.
        """


TABLE_FORMATS: Registry[type[TableFormat]] = Registry("output.tables[].format", "table format")
