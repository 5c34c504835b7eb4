"""The shuffle through storage: every row reaches its shard once, in order; files are complete or absent."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayrec.config import Data
from rayrec.data import shuffle, split_ingest
from rayrec.data.histories import group_histories
from rayrec.data.input_files import list_window_files, make_splits
from rayrec.data.interaction_contract import InteractionContract
from rayrec.data.shuffle import read_item_counts, read_shard_interactions, read_statistics
from rayrec.errors import DataError, RayrecError
from rayrec.numerics.hashing import shard_of
from rayrec.storage import Storage

DAY = date(2011, 8, 31)


def write_day(folder: Path, rows: int = 3_000, seed: int = 0) -> None:
    draw = np.random.default_rng(seed)
    moments = np.datetime64("2011-08-30", "us") + draw.integers(0, 10**9, rows).astype("timedelta64[us]")
    table = pa.table(
        {
            "user_id": [f"user {n}" for n in draw.integers(0, 200, rows)],
            "item_id": [f"item {n}" if n else "" for n in draw.integers(0, 50, rows)],
            "ts": pa.array(moments),
            "title": [f"title {n}" for n in draw.integers(0, 3, rows)],
        }
    )
    (folder / "data").mkdir(exist_ok=True)
    pq.write_table(table, folder / "data" / "events.parquet", row_group_size=500)


def settings(folder: Path, **data: Any) -> Data:
    content = {"root": str(folder / "data"), "interactions": {"path": "events.parquet"}}
    return Data.model_validate(content | {"items": {"from_interactions": True}, "shards": 4} | data)


def ingested(folder: Path | str, data: Data, out: str = "out") -> tuple[Storage, list[str]]:
    outputs, paths = Storage(f"{folder}/{out}"), []
    for split in make_splits(Storage(data.root), list_window_files(data, DAY).files, data.split_bytes):
        paths.append(f"x/{split.index}")
        split_ingest.ingest_split(
            Storage(data.root),
            outputs,
            split,
            InteractionContract(data, DAY),
            shuffle_path=paths[-1],
            quarantine=f"q/{split.index}.parquet",
        )
    return outputs, paths


def all_histories(outputs: Storage, paths: list[str], data: Data) -> list[dict[str, Any]]:
    ids = pa.array(sorted({i for p in paths for i in read_item_counts(outputs, p)["item_id"].to_pylist()}))
    shards = [
        group_histories(read_shard_interactions(outputs, paths, k), ids, data, ["events.parquet"])
        for k in range(data.shard_count)
    ]
    return sorted((row for shard in shards for row in shard.histories.to_pylist()), key=lambda row: row["user_id"])


def test_every_row_reaches_the_shard_of_its_user_in_order(tmp_path: Path) -> None:
    write_day(tmp_path)
    data = settings(tmp_path, split_bytes=8 << 10)
    outputs, paths = ingested(tmp_path, data)
    assert len(paths) > 1
    seen = 0
    for shard in range(4):
        rows = []
        for table in read_shard_interactions(outputs, paths, shard):
            users = table["user_id"].combine_chunks().cast(pa.string())
            assert set(shard_of(users, 4)) == {shard}
            assert len(table["user_id"].combine_chunks().dictionary) == len(set(users.to_pylist()))
            rows += table["source_row"].to_pylist()
        assert rows == sorted(rows)
        seen += len(rows)
    assert seen == 3_000


@pytest.mark.parametrize("other", [{"shards": 1}, {"shards": 7}, {"split_bytes": 8 << 10}, {"split_bytes": 1 << 30}])
def test_histories_do_not_depend_on_shards_or_splits(other: dict[str, int], tmp_path: Path) -> None:
    write_day(tmp_path)
    data = settings(tmp_path)
    changed = data.model_copy(update=other)
    expected = all_histories(*ingested(tmp_path, data), data)
    assert str(all_histories(*ingested(tmp_path, changed, "other"), changed)) == str(expected)  # NaN equals NaN


def test_long_splits_are_written_in_rounds_and_give_the_same_histories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_day(tmp_path)
    data = settings(tmp_path)
    expected = all_histories(*ingested(tmp_path, data), data)
    monkeypatch.setattr(split_ingest, "_ROUND_ROWS", 700)
    monkeypatch.setattr("rayrec.data.parquet_reader.MAX_BATCH_ROWS", 100)
    assert str(all_histories(*ingested(tmp_path, data, "rounds"), data)) == str(expected)


def test_repeating_a_split_gives_the_same_bytes(tmp_path: Path) -> None:
    write_day(tmp_path)
    data = settings(tmp_path)
    first, paths = ingested(tmp_path, data)
    again, _ = ingested(tmp_path, data, "again")
    assert all(first.read(path) == again.read(path) for path in paths)
    assert [file.path for file in first.list("q")] == [file.path for file in again.list("q")] == ["q/0.parquet"]


def test_statistics_add_up_and_are_stored_in_the_file(tmp_path: Path) -> None:
    write_day(tmp_path)
    data = settings(tmp_path)
    outputs, paths = ingested(tmp_path, data)
    statistics = read_statistics(outputs, paths[0])
    assert statistics["rows"] == 3_000 == statistics["accepted"] + statistics["quarantined"]["no_item"]
    assert statistics["files"]["events.parquet"]["rows"] == 3_000
    with outputs.open(statistics["quarantine"]) as file:
        assert pq.read_table(file).num_rows == statistics["quarantined"]["no_item"]


def test_a_failed_split_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_day(tmp_path)
    data = settings(tmp_path)
    monkeypatch.setattr("rayrec.data.parquet_reader.MAX_BATCH_ROWS", 500)
    calls = []
    check = InteractionContract.check

    def failing(self: InteractionContract, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise RayrecError("the disk is gone")
        return check(self, *args)

    monkeypatch.setattr(InteractionContract, "check", failing)
    with pytest.raises(RayrecError, match="the disk is gone"):
        ingested(tmp_path, data)
    assert Storage(str(tmp_path / "out")).list() == []


@pytest.mark.parametrize("content", [b"", b"RRX1", b"x" * 100, b"\xff" * 8 + b"RRX1"])
def test_another_kind_of_file_is_refused(content: bytes, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write("x/0", content)
    with pytest.raises(DataError, match="not a shuffle file"):
        read_statistics(storage, "x/0")


def test_every_storage_backend_gives_the_same_histories(storage_root: str, tmp_path: Path) -> None:
    write_day(tmp_path)
    local = settings(tmp_path, split_bytes=8 << 10)
    expected = all_histories(*ingested(tmp_path, local), local)
    root = f"{storage_root}/data"
    Storage(root).write("events.parquet", (tmp_path / "data" / "events.parquet").read_bytes())
    data = local.model_copy(update={"root": root})
    outputs, paths = ingested(storage_root, data)
    assert len(paths) > 1
    assert str(all_histories(outputs, paths, data)) == str(expected)


def test_a_process_reads_an_index_once_so_a_further_shard_costs_a_request_per_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_day(tmp_path)
    outputs, paths = ingested(tmp_path, settings(tmp_path, split_bytes=8 << 10))
    requests: list[str] = []
    read = Storage.read_range

    def counting(self: Storage, path: str, start: int, length: int) -> bytes:
        requests.append(path)
        return read(self, path, start, length)

    monkeypatch.setattr(Storage, "read_range", counting)
    first = sum(table.num_rows for table in read_shard_interactions(outputs, paths, 0))
    assert len(requests) == 2 * len(paths)
    requests.clear()
    second = sum(table.num_rows for table in read_shard_interactions(outputs, paths, 1))
    assert len(requests) == len(paths)
    assert first > 0
    assert second > 0
    monkeypatch.setattr("rayrec.data.shuffle._KNOWN", 1)  # too little for one: the last remains
    assert sum(table.num_rows for table in read_shard_interactions(outputs, paths, 1)) == second


def test_of_many_splits_and_shards_only_the_entries_of_a_shard_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_day(tmp_path)
    outputs, paths = ingested(tmp_path, settings(tmp_path, split_bytes=8 << 10))

    def rows() -> list[pa.Table]:
        shards = (pa.concat_tables(read_shard_interactions(outputs, paths, shard)) for shard in range(4))
        return [shard.select(["user_id", "ts", "source_row"]).unify_dictionaries() for shard in shards]

    whole = rows()
    shuffle._known.clear()
    monkeypatch.setattr(shuffle, "_KNOWN", 1)
    assert all(found.equals(before) for found, before in zip(rows(), whole, strict=True))
    assert all(places.read is None for places in shuffle._known.values())
