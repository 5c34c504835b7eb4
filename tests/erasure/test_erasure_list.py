"""The erasure list and its effect on ingest."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayrec.config import Config, Data
from rayrec.data import catalogue, erasure_list
from rayrec.data.erasure_list import ErasureList
from rayrec.data.histories import group_histories
from rayrec.data.input_files import list_window_files, make_splits
from rayrec.data.interaction_contract import InteractionContract
from rayrec.data.shuffle import count_erased_users, read_item_counts, read_shard_interactions, read_statistics
from rayrec.data.split_ingest import ingest_split
from rayrec.errors import DataError
from rayrec.numerics.hashing import shard_of
from rayrec.pipeline.run_context import RunContext
from rayrec.storage import Storage, layout

DAY, SHARDS = date(2024, 5, 1), 3
SALT = b"a salt"


def listed(*users: str) -> ErasureList:
    return ErasureList(SALT, frozenset(ErasureList(SALT).token(user) for user in users))


@given(st.lists(st.text(max_size=5) | st.none(), max_size=30), st.sets(st.text(max_size=5), max_size=8))
def test_exactly_the_users_on_the_list_are_found(users: list[str | None], on_it: set[str]) -> None:
    column = pa.array(users, pa.string())
    expected = [user in on_it for user in users]
    for values in (column, column.dictionary_encode(), pa.chunked_array([column, column])):
        found = listed(*on_it).contains(values).tolist()
        assert found == (expected if len(values) == len(users) else expected * 2)
    tokens = listed(*on_it).tokens_in(column)
    assert tokens == {ErasureList(SALT).token(user) for user in users if user in on_it}


def test_the_list_is_the_union_of_all_requests_and_a_user_is_on_it_once(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    assert len(erasure_list.read(storage)) == 0
    assert storage.list() == []  # queries write nothing
    first = erasure_list.add(storage, pa.array(["a", "b"]))
    second = erasure_list.add(storage, pa.array(["b", "c"]))
    assert first is not None
    assert second is not None
    assert len(second.tokens) == 1
    assert erasure_list.add(storage, pa.array(["a", "c"])) is None
    assert erasure_list.read(storage).contains(pa.array(["a", "b", "c", "d"])).tolist() == [True, True, True, False]
    assert erasure_list.before(storage, second).contains(pa.array(["a", "c"])).tolist() == [True, False]
    assert erasure_list.of(storage, second).contains(pa.array(["a", "c"])).tolist() == [False, True]
    assert [request.id for request in erasure_list.pending_requests(storage)] == [first.id, second.id]
    storage.write(layout.erasure_certificate_path(first.id), b"{}")
    assert erasure_list.pending_requests(storage) == [second]


def test_the_list_contains_no_ids_and_two_roots_share_no_token(tmp_path: Path) -> None:
    users = pa.array([f"customer-{n}" for n in range(20)])
    roots = [Storage(str(tmp_path / name)) for name in ("one", "other")]
    for storage in roots:
        erasure_list.add(storage, users)
        for info in storage.list():
            assert b"customer" not in storage.read(info.path)
    one, other = (erasure_list.read(storage) for storage in roots)
    assert not one.tokens & other.tokens


def test_an_unreadable_list_stops_the_run(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    request = erasure_list.add(storage, pa.array(["a"]))
    assert request is not None
    storage.write(f"erasure/requests/{request.id}.json", b"{")
    with pytest.raises(DataError, match="the erasure list cannot be read"):
        erasure_list.read(storage)


def write_shop(folder: Path) -> Data:
    """8 users. Only user 1 has events with item x1 and rows with its title; one row has no item."""
    rows = [(f"u{user}", f"i{user % 3}", "common") for user in range(8) for _ in range(2)]
    rows += [("u1", "x1", "rare"), ("u1", "i1", "rare"), ("u1", "i1", "rare"), ("u1", "i1", "rare"), ("u1", "", "")]
    rows += [("u1", "i1", "later"), ("u2", "", "")]
    moments = [f"2024-04-30T{n % 24:02d}:{n:02d}:00Z" for n in range(len(rows))]
    moments[-2] = "2024-05-02T00:00:00Z"  # outside the window
    names = ("user_id", "item_id", "title")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    (folder / "data").mkdir()
    pa_csv.write_csv(pa.table({**{k: list(v) for k, v in columns.items()}, "ts": moments}), folder / "data/e.csv")
    content = {"root": str(folder / "data"), "interactions": {"path": "e.csv"}, "items": {"from_interactions": True}}
    return Data.model_validate({**content, "shards": SHARDS, "events": {"interaction": 1.0}})


def ingested(folder: Path, data: Data, gone: ErasureList) -> tuple[Storage, str]:
    outputs = Storage(str(folder / "out"))
    (split,) = make_splits(Storage(data.root), list_window_files(data, DAY).files, data.split_bytes)
    contract = InteractionContract(data, DAY)
    ingest_split(
        Storage(data.root), outputs, split, contract, shuffle_path="x", quarantine="q.parquet", erasure_list=gone
    )
    return outputs, "x"


def test_rows_of_erased_users_are_dropped_and_counted(tmp_path: Path) -> None:
    data = write_shop(tmp_path)
    outputs, path = ingested(tmp_path, data, listed("u1", "u5", "nobody"))
    statistics = read_statistics(outputs, path)
    assert statistics["rows"] == 23
    assert statistics["outside_window"] == 1
    assert statistics["erased"] == 2 + 2 + 5
    assert statistics["quarantined"] == {"no_item": 1}  # of u2
    assert statistics["accepted"] == 23 - 1 - 9 - 1
    items = catalogue.catalogue_from_counts([read_item_counts(outputs, path)])
    assert items["item_id"].to_pylist() == ["i0", "i1", "i2"]
    assert set(items["title"].to_pylist()) == {"common"}
    ids = items["item_id"].combine_chunks()
    users: list[str] = []
    for shard in range(SHARDS):
        grouped = group_histories(read_shard_interactions(outputs, [path], shard), ids, data, ["e.csv"])
        users += grouped.histories["user_id"].to_pylist()
        theirs = int(np.count_nonzero(shard_of(pa.array(["u1", "u5"]), SHARDS) == shard))
        assert count_erased_users(outputs, [path, path], shard) == theirs  # once, in however many splits they are
    assert sorted(users) == ["u0", "u2", "u3", "u4", "u6", "u7"]
    with outputs.open("q.parquet") as file:
        assert pq.read_table(file)["user_id"].to_pylist() == ["u2"]


def test_an_empty_list_changes_nothing(tmp_path: Path) -> None:
    data = write_shop(tmp_path)
    outputs, path = ingested(tmp_path, data, ErasureList())
    first = outputs.read(path)
    ingested(tmp_path, data, listed("nobody"))
    assert outputs.read(path) == first


def test_runs_do_not_resume_across_a_request(tmp_path: Path) -> None:
    data = write_shop(tmp_path).model_dump(mode="json")
    content = {"name": "t", "data": data, "arms": {"variants": {"a": {}}}, "output": {"root": str(tmp_path / "out")}}
    before, again = (RunContext(Config.model_validate(content), DAY) for _ in range(2))
    assert (before, hash(before)) == (again, hash(again))
    storage = Storage(str(tmp_path / "out"))
    erasure_list.add(storage, pa.array(["somebody"]))
    after = RunContext(before.config, DAY)
    assert before != after
    assert before.work_folder != after.work_folder
    assert before.record.identity != after.record.identity
    assert before.record.run_id != after.record.run_id
    assert RunContext(before.config, DAY, ErasureList()).work_folder == before.work_folder  # unchanged


def test_a_request_file_holds_only_its_documented_keys(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    request = erasure_list.add(storage, pa.array(["a"]))
    assert request is not None
    content = json.loads(storage.read(f"erasure/requests/{request.id}.json"))
    assert set(content) == {"requested_at", "earlier", "tokens"}
