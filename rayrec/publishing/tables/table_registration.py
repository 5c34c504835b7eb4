"""Keeps the tables of `output.tables` equal to the published dates: the manifests decide.

A table gets one version for each date that versions: a date that is newly published, one whose files an erasure
rewrote, and one that was withdrawn. A date that is as its manifest says makes none.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rayrec.config.scoring_sections import TableRegistration
from rayrec.errors import RayrecError, StorageError
from rayrec.publishing.manifest import find_manifest, published_dates
from rayrec.publishing.tables import TABLE_FORMATS, TableFormat
from rayrec.storage import Storage

_ATTEMPTS = 5  # each is lost only to a writer that made a version meanwhile


@dataclass(frozen=True)
class TableVersion:
    """One version of a table."""

    format: str
    date: datetime.date
    added: int  # files
    removed: int

    def __str__(self) -> str:
        return f"{self.format}, {self.date}: {self.added} files added, {self.removed} removed"


def open_tables(
    storage: Storage, tables: Sequence[TableRegistration], *, with_others: bool = False
) -> list[TableFormat]:
    """The configured tables. Raises ConfigError if one cannot be written.

    `with_others`: also those under the root that are not configured (any more).
    """
    found = [TABLE_FORMATS.lookup(table.format)(storage, table.settings) for table in tables]
    configured = {table.format for table in tables}
    if with_others:
        others = [kind for name, kind in sorted(TABLE_FORMATS.items()) if name not in configured]
        found += [kind(storage, kind.settings_class()) for kind in others if kind.exists_by_default(storage)]
    return found


def register_date(
    storage: Storage, tables: Sequence[TableRegistration], date: datetime.date
) -> tuple[TableVersion, ...]:
    """Register a date that has just been published. A RayrecError says that the slates are published all the same."""
    try:
        return tuple(update_tables(open_tables(storage, tables), [date]))
    except RayrecError as error:
        raise type(error)(
            f"the slates are published, but the tables of output.tables do not show them: {error.what}",
            where=error.where,
            hint=f"{error.hint}; the same command then registers the date, and scores nothing again",
        ) from error


def update_tables(
    tables: Sequence[TableFormat], changed: Collection[datetime.date] | None = None
) -> list[TableVersion]:
    """Bring the tables to what is published; return the versions that were made.

    `changed`: dates whose files may differ from those that the tables have; None: every date. Other dates are added if
    they are missing, and removed if they are not published any more. Raises StorageError or DataError.
    """
    return [change for table in tables for change in _update(table, changed)]


def _update(table: TableFormat, changed: Collection[datetime.date] | None) -> list[TableVersion]:
    versions: list[TableVersion] = []
    for _ in range(_ATTEMPTS):
        if _caught_up(table, changed, versions):
            return versions
    raise StorageError(
        f"other writers changed the {table.name} table again and again",
        where=table.storage.root,
        hint="the slates are published; run the job again when the others have finished",
    )


def _caught_up(table: TableFormat, changed: Collection[datetime.date] | None, versions: list[TableVersion]) -> bool:
    """Make the versions that are missing. False: another writer was first, and its table must be read again."""
    storage = table.storage
    registered: dict[datetime.date, set[str]] = {}
    for path, date in table.files().items():
        registered.setdefault(date, set()).add(path)
    published = set(published_dates(storage.root))
    for date in sorted(published | registered.keys()):
        there = registered.get(date, set())
        if there and date in published and changed is not None and date not in changed:
            continue
        manifest = find_manifest(storage, date) if date in published else None
        files = () if manifest is None else manifest.files
        added = [file for file in files if file.path not in there]
        removed = there - {file.path for file in files}
        if added or removed:
            if not table.commit(date, added, removed):
                return False
            versions.append(TableVersion(table.name, date, len(added), len(removed)))
    return True
