"""Folders of lake tables: only what the log names is read, in every layout and store, or the table is refused."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from rayrec.config import FileSource
from rayrec.data.input_files import list_files
from rayrec.errors import DataError
from rayrec.storage import Storage

EVENTS = pa.table({"user_id": ["ann", "gone", "cat"], "dt": ["2026-01-29", "2026-01-30", "2026-01-30 08:00/x"]})


def users(root: str, path: str) -> list[str]:
    """The users of the files that the path stands for."""
    found: list[str] = []
    for file in list_files(root, FileSource(path=path), "data.interactions"):
        with fsspec.open(f"{root}/{file.path}", "rb") as handle:
            found += pq.read_table(handle)["user_id"].to_pylist()
    return sorted(found)


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def parquet(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"user_id": list(names)}), path)


@pytest.fixture(params=["flat", "partitioned", "checkpoint", "vectors_allowed"])
def delta(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A root whose folder `events` is a Delta table without the user `gone`."""
    options: dict[str, Any] = {"partition_by": ["dt"]} if request.param == "partitioned" else {}
    if request.param == "vectors_allowed":
        options["configuration"] = {"delta.enableDeletionVectors": "true"}
    root, table = tmp_path / "lake", str(tmp_path / "lake" / "events")
    write_deltalake(table, EVENTS, **options)
    write_deltalake(table, EVENTS.slice(0, 1), mode="append")
    DeltaTable(table).delete("user_id = 'gone'")
    if request.param == "checkpoint":
        DeltaTable(table).create_checkpoint()
        (root / "events/_delta_log/00000000000000000000.json").unlink()
        write_deltalake(table, EVENTS.slice(2, 1), mode="append")
    return root


@pytest.mark.parametrize("path", ["events", "events/**/*.parquet", "**", "."])
def test_removed_files_of_a_delta_table_are_not_data(delta: Path, path: str) -> None:
    assert "gone" in [
        user for file in delta.rglob("part*.parquet") for user in pq.read_table(file)["user_id"].to_pylist()
    ]
    uris = DeltaTable(str(delta / "events")).file_uris()
    expected = sorted(user for uri in uris for user in pq.read_table(uri)["user_id"].to_pylist())
    assert users(str(delta), path) == expected
    assert "gone" not in expected


def test_a_root_inside_a_delta_table_is_seen_too(delta: Path) -> None:
    assert "gone" not in users(str(delta / "events"), ".")
    assert "gone" not in users(str(delta / "events"), "**/*.parquet")
    for folder in (delta / "events").glob("dt=*"):
        if folder.name == "dt=2026-01-30":
            with pytest.raises(DataError, match="no data, only 1 temporary, hidden or removed files"):
                users(str(folder), "*.parquet")
        else:
            assert "gone" not in users(str(folder), "*.parquet")


def test_a_delta_table_in_another_store(delta: Path) -> None:
    store = fsspec.filesystem("memory")
    for file in delta.rglob("*"):
        if file.is_file():
            store.pipe_file(f"/lake-{delta.parent.name}/{file.relative_to(delta)}", file.read_bytes())
    assert users(f"memory://lake-{delta.parent.name}", "events") == users(str(delta), "events")


def test_every_store_leaves_out_what_a_writer_left_behind(storage_root: str, tmp_path: Path) -> None:
    write_deltalake(tmp_path / "t", EVENTS, partition_by=["dt"])
    DeltaTable(tmp_path / "t").delete("user_id = 'gone'")
    storage = Storage(f"{storage_root}/lake")
    for file in (tmp_path / "t").rglob("*"):
        if file.is_file():
            storage.write(f"table/{file.relative_to(tmp_path / 't')}", file.read_bytes())
    for path in ("_temporary/0/part-1.csv", ".spark-staging-1/a.csv", "_SUCCESS", "part-0.csv", "part-1.csv.tmp"):
        storage.write(f"plain/{path}", b"user_id\nann\n")
    assert [file.path for file in list_files(storage.root, FileSource(path="plain"), "x")] == ["plain/part-0.csv"]
    for path in ("table", "table/**/*.parquet"):
        found = list_files(storage.root, FileSource(path=path), "x")
        assert len(found) == 2
        assert not any("dt=2026-01-30/" in file.path for file in found)
    for path in ("table/dt=2026-01-30", "plain/_temporary/0/*.tmp"):
        with pytest.raises(DataError):
            list_files(storage.root, FileSource(path=path), "x")


def test_a_removed_file_is_refused_by_name(delta: Path) -> None:
    live = {Path(uri.removeprefix("file://")).name for uri in DeltaTable(str(delta / "events")).file_uris()}
    removed = next(file for file in (delta / "events").rglob("part*.parquet") if file.name not in live)
    with pytest.raises(DataError, match="holds no data, only 1 temporary, hidden or removed files"):
        users(str(delta), removed.relative_to(delta).as_posix())


def test_other_files_beside_a_delta_log_are_data_if_they_are_named(delta: Path) -> None:
    write(delta, {"events/items.csv": "item_id\n"})
    (file,) = list_files(str(delta), FileSource(path="events/items.csv"), "data.items")
    assert file.path == "events/items.csv"
    assert "events/items.csv" not in [file.path for file in list_files(str(delta), FileSource(path="."), "data.items")]


def test_a_missing_live_file_is_an_error(delta: Path) -> None:
    for file in list_files(str(delta), FileSource(path="events"), "data.interactions")[:1]:
        (delta / file.path).unlink()
    with pytest.raises(DataError, match="names 1 files that are missing"):
        users(str(delta), "events")


def test_without_the_package_a_delta_table_is_refused_with_words(delta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(DataError, match=r"(?s)Delta table.*rayrec\[lake\]"):
        users(str(delta), "events/**/*.parquet")


def _log_of(table: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (table / "_delta_log/00000000000000000000.json").read_text().splitlines()]


def test_rows_deleted_by_a_deletion_vector_refuse_the_table(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "t", EVENTS, configuration={"delta.enableDeletionVectors": "true"})
    added = next(entry["add"] for entry in _log_of(tmp_path / "t") if "add" in entry)
    vector = {"storageType": "u", "pathOrInlineDv": "vBn[lx{q8@P<9BNH/isA", "sizeInBytes": 36, "cardinality": 1}
    entries = [{"remove": {"path": added["path"], "dataChange": True}}, {"add": {**added, "deletionVector": vector}}]
    write(tmp_path, {"t/_delta_log/00000000000000000001.json": "".join(json.dumps(each) + "\n" for each in entries)})
    with pytest.raises(DataError, match="log of this Delta table cannot be followed"):
        users(str(tmp_path), "t")


def test_mapped_columns_refuse_the_table(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "t", EVENTS, configuration={"delta.columnMapping.mode": "name"})
    with pytest.raises(DataError, match="column mapping by name"):
        users(str(tmp_path), "t")


@pytest.mark.parametrize("content", ["", "{", '{"add":{"path":"part-0.parquet"}}\n', "\0" * 9, '{"add": 1}\n'])
def test_a_log_that_cannot_be_read_refuses_the_table(content: str, tmp_path: Path) -> None:
    parquet(tmp_path / "t/part-0.parquet", "ann")
    write(tmp_path, {"t/_delta_log/00000000000000000000.json": content})
    for path in ("t", "t/*.parquet", "t/part-0.parquet"):
        with pytest.raises(DataError, match="log of this Delta table cannot be followed"):
            users(str(tmp_path), path)


@pytest.mark.parametrize(
    ("format", "marker"),
    [
        ("Iceberg", "t/metadata/v1.metadata.json"),
        ("Iceberg", "t/metadata/00000-9c1b.metadata.json"),
        ("Hudi", "t/.hoodie/hoodie.properties"),
        ("Paimon", "t/schema/schema-0"),
    ],
)
def test_other_lake_tables_are_refused_with_words(format: str, marker: str, tmp_path: Path) -> None:
    parquet(tmp_path / "t/data/part-0.parquet", "ann")
    write(tmp_path, {marker: "{}", "t/metadata/version-hint.text": "1"} if format == "Iceberg" else {marker: "{}"})
    for root, path in ((".", "t"), (".", "t/data/*.parquet"), (".", "t/data/part-0.parquet"), ("t/data", ".")):
        with pytest.raises(DataError, match=f"a table in the {format} format"):
            users(str(tmp_path / root), path)
    parquet(tmp_path / "plain/part-0.parquet", "ann")
    assert users(str(tmp_path), "plain") == ["ann"]


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Path]:
    """The folder of a Spark streaming sink with a file of a batch that failed."""
    for number, user in enumerate(["ann", "gone", "bob", "cat", "dan"]):
        parquet(tmp_path / f"sink/dt=2026-01-30/part-{number}.parquet", user)

    def batch(*numbers: int, action: str = "add") -> str:
        lines = [
            json.dumps({"path": f"hdfs://old/place/dt=2026-01-30/part-{number}.parquet", "action": action})
            for number in numbers
        ]
        return "\n".join(["v1", *lines])

    logs = {"8": "v1\n{", "9.compact": batch(0, 3), "10": batch(2, 4), "11": batch(3, action="delete"), "12.tmp": "{"}
    write(tmp_path, {f"sink/_spark_metadata/{name}": content for name, content in logs.items()})
    yield tmp_path
    shutil.rmtree(tmp_path)


def test_uncommitted_files_of_a_streaming_sink_are_not_data(sink: Path) -> None:
    for path in ("sink", "sink/dt=2026-01-30", "sink/**/*.parquet"):
        assert users(str(sink), path) == ["ann", "bob", "dan"]
    write(sink, {"sink/_spark_metadata/13": "v1\n{"})
    with pytest.raises(DataError, match="Spark streaming sink cannot be read"):
        users(str(sink), "sink")
