"""Published days as versions of Delta and Iceberg tables: the same rows, once, and without erased users."""

from __future__ import annotations

import dataclasses
import datetime
import uuid
from collections.abc import Callable
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import small_day

from rayrec.config.scoring_sections import TableRegistration
from rayrec.data.erasure_list import ErasureList
from rayrec.data.schemas import SLATE
from rayrec.errors import ConfigError, StorageError
from rayrec.publishing import PublishingRun, tables
from rayrec.publishing.erasure import erase
from rayrec.publishing.manifest import find_manifest
from rayrec.publishing.slate_reader import read_slates
from rayrec.publishing.tables import iceberg_table as iceberg_table_module
from rayrec.publishing.tables import table_registration
from rayrec.publishing.tables.table_format import TableFormat
from rayrec.publishing.tables.table_registration import open_tables, register_date, update_tables
from rayrec.storage import Storage, layout
from rayrec.storage.decoded_content import decoded

FORMATS = sorted(tables.TABLE_FORMATS)
ORDER = [(name, "ascending") for name in ("dt", "arm", "user_id", "rank")]


def delta_rows(storage: Storage) -> pa.Table:
    from deltalake import DeltaTable

    return DeltaTable(storage.url(layout.SLATES)).to_pyarrow_table()


def iceberg_table(storage: Storage) -> Any:
    from pyiceberg.catalog import load_catalog

    uri = f"sqlite:///{storage.url(layout.ICEBERG_CATALOG)}"
    return load_catalog("rayrec", type="sql", uri=uri).load_table("rayrec.slates")


def iceberg_rows(storage: Storage) -> pa.Table:
    return iceberg_table(storage).scan().to_arrow()


def delta_versions(storage: Storage) -> int:
    return len(storage.list(layout.DELTA_LOG))


def iceberg_versions(storage: Storage) -> int:
    return len(iceberg_table(storage).snapshots())


ROWS: dict[str, Callable[[Storage], pa.Table]] = {"delta": delta_rows, "iceberg": iceberg_rows}
VERSIONS: dict[str, Callable[[Storage], int]] = {"delta": delta_versions, "iceberg": iceberg_versions}
TABLES = tuple(TableRegistration(format=name) for name in FORMATS)
BOTH = pytest.mark.parametrize("name", FORMATS)


def publish(storage: Storage, date: datetime.date, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as other_day:
        other_day.setattr(small_day, "DATE", date)
        small_day.publish_day(storage)


def in_order(table: pa.Table) -> pa.Table:
    """The rows in one order and with the types of SLATE: a table keeps no order, and Iceberg no 16-bit integers."""
    return pa.table(table.select(SLATE.names)).cast(SLATE).sort_by(ORDER).combine_chunks()


def published(storage: Storage) -> pa.Table:
    dates = table_registration.published_dates(storage.root)
    return in_order(pa.concat_tables([read_slates(storage.root, date, verify=True) for date in dates]))


def test_every_format_is_read_here() -> None:
    assert set(ROWS) == set(VERSIONS) == set(FORMATS)


@BOTH
def test_the_table_has_the_rows_of_the_published_days_and_a_rerun_adds_nothing(
    local: Storage, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_day.publish_day(local)
    assert [(made.format, made.date, made.removed) for made in register_date(local, TABLES, small_day.DATE)] == [
        (each, small_day.DATE, 0) for each in FORMATS
    ]
    assert in_order(ROWS[name](local)).equals(published(local))
    tomorrow = small_day.DATE + datetime.timedelta(days=1)
    publish(local, tomorrow, monkeypatch)
    register_date(local, TABLES, tomorrow)
    assert VERSIONS[name](local) == 2
    for _ in range(2):
        assert register_date(local, TABLES, tomorrow) == ()
        assert update_tables(open_tables(local, TABLES)) == []
    assert VERSIONS[name](local) == 2
    rows = in_order(ROWS[name](local))
    assert rows.num_rows == 2 * small_day.whole_day().num_rows
    assert rows.equals(published(local))


@BOTH
def test_days_published_before_the_table_was_configured_are_in_it(
    local: Storage, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = [small_day.DATE + datetime.timedelta(days=each) for each in range(3)]
    for day in days:
        publish(local, day, monkeypatch)
    register_date(local, TABLES, days[-1])
    assert VERSIONS[name](local) == len(days)
    assert in_order(ROWS[name](local)).equals(published(local))


@BOTH
def test_no_row_is_copied(local: Storage, name: str) -> None:
    small_day.publish_day(local)
    register_date(local, [TableRegistration(format=name)], small_day.DATE)
    manifest = find_manifest(local, small_day.DATE)
    assert manifest is not None
    parquet = {info.path for info in local.list() if info.path.endswith(".parquet")}
    assert parquet == {file.path for file in manifest.files}


@BOTH
def test_a_withdrawn_day_leaves_the_table(local: Storage, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small_day.publish_day(local)
    register_date(local, TABLES, small_day.DATE)
    tomorrow = small_day.DATE + datetime.timedelta(days=1)
    publish(local, tomorrow, monkeypatch)
    local.delete(layout.manifest_path(small_day.DATE))
    register_date(local, TABLES, tomorrow)
    rows = ROWS[name](local)
    assert set(rows["dt"].to_pylist()) == {tomorrow}
    assert in_order(rows).equals(published(local))


@BOTH
def test_erased_users_leave_the_table_and_its_metadata(local: Storage, name: str) -> None:
    gone = small_day.users_of(1)[0]
    small_day.publish_day(local)
    register_date(local, TABLES, small_day.DATE)
    erasure_list = ErasureList(b"s", frozenset({ErasureList(b"s").token(gone)}))
    erase(local, layout.SLATES, small_day.DATE, erasure_list)
    made = update_tables(open_tables(local, [], with_others=True))  # the config of jobs.forget may lack the tables
    assert [(each.format, each.added, each.removed) for each in made] == [(each, 2, 2) for each in FORMATS]
    everybody = small_day.whole_day()
    rows = in_order(ROWS[name](local))
    assert rows.equals(in_order(everybody.filter(pc.not_equal(everybody["user_id"], gone))))
    assert VERSIONS[name](local) == 2
    assert update_tables(open_tables(local, TABLES)) == []
    for info in (*local.list(), *local.hidden()):
        data = local.read(info.path)
        assert gone.encode() not in data, info.path
        assert not any(gone in str(text) for texts in decoded(data) for text in texts.to_pylist()), info.path


@BOTH
def test_the_metadata_holds_no_id_even_of_users_who_are_published(local: Storage, name: str) -> None:
    """Smallest and largest values of a column are ids; an erasure does not rewrite old versions of a table."""
    small_day.publish_day(local)
    before = {info.path for info in local.list()}
    register_date(local, [TableRegistration(format=name)], small_day.DATE)
    added = [info.path for info in local.list() if info.path not in before]
    assert added
    for path in added:
        assert not [user for user in small_day.USERS if user.encode() in local.read(path)], path


@BOTH
def test_a_version_that_another_writer_made_is_seen(local: Storage, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two jobs register at once: each day is in the table once."""
    small_day.publish_day(local)
    kind = tables.TABLE_FORMATS[name]
    files, others = kind.files, [1]

    def files_and_a_race(self: TableFormat) -> dict[str, datetime.date]:
        found = files(self)
        if others.pop() if others else 0:
            update_tables([kind(local, kind.settings_class())])
        return found

    monkeypatch.setattr(kind, "files", files_and_a_race)
    assert update_tables([kind(local, kind.settings_class())]) == []
    assert VERSIONS[name](local) == 1
    assert in_order(ROWS[name](local)).equals(published(local))


@BOTH
def test_a_table_that_changes_all_the_time_is_an_error_that_says_that_the_slates_are_published(
    local: Storage, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_day.publish_day(local)
    monkeypatch.setattr(tables.TABLE_FORMATS[name], "commit", lambda *_: False)
    with pytest.raises(StorageError) as error:
        register_date(local, [TableRegistration(format=name)], small_day.DATE)
    assert error.value.what.startswith("the slates are published, but the tables of output.tables do not show them: ")


def test_a_compacted_delta_table_has_every_row_once(local: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    from deltalake import DeltaTable

    small_day.publish_day(local)
    register_date(local, TABLES, small_day.DATE)
    DeltaTable(local.url(layout.SLATES)).optimize.compact()
    tomorrow = small_day.DATE + datetime.timedelta(days=1)
    publish(local, tomorrow, monkeypatch)
    register_date(local, TABLES, tomorrow)
    assert in_order(delta_rows(local)).equals(published(local))
    update_tables(open_tables(local, TABLES))  # as jobs.forget: every date as its manifest says
    manifest = find_manifest(local, small_day.DATE)
    assert manifest is not None
    uris = DeltaTable(local.url(layout.SLATES)).file_uris()
    assert {local.url(file.path) for file in manifest.files} <= set(uris)
    assert in_order(delta_rows(local)).equals(published(local))


def test_a_vacuum_deletes_no_manifest(local: Storage) -> None:
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    small_day.publish_day(local)
    register_date(local, TABLES, small_day.DATE)
    table = DeltaTable(local.url(layout.SLATES))
    assert table.vacuum(dry_run=True, full=True) == []
    with pytest.raises((DeltaError, ValueError), match=r"(?i)retention"):
        table.vacuum(retention_hours=0, dry_run=True, full=True)


def test_polars_reads_both(local: Storage) -> None:
    small_day.publish_day(local)
    register_date(local, TABLES, small_day.DATE)
    for frame in (
        pl.read_delta(local.url(layout.SLATES)),
        pl.scan_iceberg(iceberg_table(local)).collect(),
    ):
        assert in_order(frame.to_arrow()).equals(published(local))


def test_one_arm_and_day_is_found_without_opening_other_files(local: Storage) -> None:
    small_day.publish_day(local)
    register_date(local, TABLES, small_day.DATE)
    planned = iceberg_table(local).scan(row_filter=f"dt = '{small_day.DATE}' and arm = 'llm'").plan_files()
    assert len(list(planned)) == small_day.SHARDS
    assert not list(iceberg_table(local).scan(row_filter="dt = '2000-01-01'").plan_files())
    from deltalake import DeltaTable

    uris = DeltaTable(local.url(layout.SLATES)).file_uris([("arm", "=", "llm")])
    assert len(uris) == small_day.SHARDS


def test_a_remote_root_needs_a_catalog() -> None:
    storage = Storage("s3://bucket/out")
    with pytest.raises(ConfigError, match="catalog"):
        open_tables(storage, [TableRegistration(format="iceberg")])


def test_a_table_with_features_that_rayrec_does_not_write_is_left_alone(local: Storage) -> None:
    small_day.publish_day(local)
    register_date(local, TABLES, small_day.DATE)
    table = next(one for one in open_tables(local, TABLES) if one.name == "delta")
    path = layout.delta_version_path(1)
    local.create(path, b'{"protocol":{"minReaderVersion":1,"minWriterVersion":4}}\n')
    local.delete(layout.manifest_path(small_day.DATE))
    with pytest.raises(StorageError, match="writer version 4"):
        update_tables([table])


def test_an_empty_shard_is_no_file_of_the_table(local: Storage) -> None:
    run = PublishingRun.open(local, small_day.record())
    for shard in range(small_day.SHARDS):
        users = small_day.counts_of(shard)
        if shard:
            run.commit(shard, small_day.tables_of(shard), users)
        else:
            none = dataclasses.replace(users, published=0, ineligible={"min_events": 1 + users.published})
            run.commit(shard, {arm: SLATE.empty_table() for arm in small_day.ARMS}, none)
    run.publish(small_day.PROVENANCE)
    register_date(local, TABLES, small_day.DATE)
    assert in_order(delta_rows(local)).equals(published(local))
    assert in_order(iceberg_rows(local)).equals(published(local))


def test_iceberg_keeps_bounds_of_partitions_only(local: Storage) -> None:
    small_day.publish_day(local)
    register_date(local, TABLES, small_day.DATE)
    table = iceberg_table(local)
    partitions = {table.schema().find_field(name).field_id for name in ("dt", "arm")}
    files = [task.file for task in table.scan().plan_files()]
    assert files
    assert {field for file in files for field in {*file.lower_bounds, *file.upper_bounds}} == partitions


def test_a_delta_table_on_s3_is_read_by_the_package(s3_server: str) -> None:
    from deltalake import DeltaTable

    storage = Storage(f"s3://rayrec-tests/{uuid.uuid4().hex}")
    small_day.publish_day(storage)
    delta = [TableRegistration(format="delta")]
    assert len(register_date(storage, delta, small_day.DATE)) == 1
    assert register_date(storage, delta, small_day.DATE) == ()
    options = {"AWS_ENDPOINT_URL": s3_server, "AWS_ALLOW_HTTP": "true"}
    table = DeltaTable(storage.url(layout.SLATES), storage_options=options)
    assert in_order(table.to_pyarrow_table()).equals(published(storage))


def test_the_metadata_of_iceberg_does_not_grow_with_the_square_of_the_dates(
    local: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_day.publish_day(local)
    kept = 3
    monkeypatch.setitem(iceberg_table_module._PROPERTIES, "write.metadata.previous-versions-max", str(kept))
    iceberg = [TableRegistration(format="iceberg")]
    for _ in range(kept + 2):
        local.delete(layout.manifest_path(small_day.DATE))
        register_date(local, iceberg, small_day.DATE)
        small_day.publish_day(local)
        register_date(local, iceberg, small_day.DATE)
    files = [info.path for info in local.list(layout.ICEBERG) if info.path.endswith(".metadata.json")]
    assert len(files) <= kept + 1
    assert in_order(iceberg_rows(local)).equals(published(local))
