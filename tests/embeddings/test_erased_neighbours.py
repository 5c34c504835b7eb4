"""Erased users are removed from neighbour lists."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from rayrec.data.erasure_list import ErasureList
from rayrec.embeddings import Index, read_neighbours
from rayrec.embeddings.embedding_tables import NEIGHBOURS, neighbour_table
from rayrec.numerics.hashing import digest, shard_of
from rayrec.pipeline.user_data_inventory import find_user_data
from rayrec.publishing import Provenance, PublishingRun, RunRecord, UserCounts, find_manifest
from rayrec.publishing.erasure import erase
from rayrec.storage import Storage

DATE, SHARDS = datetime.date(2011, 8, 31), 3
USERS = pa.array([f"user-{n:02d}" for n in range(30)])
GONE = ErasureList(b"s", frozenset([ErasureList(b"s").token("user-07")]))


def publish(storage: Storage) -> None:
    record = RunRecord(DATE, digest("all"), {}, (), SHARDS, ("gifts.users",), "code-1")
    run = PublishingRun.open(storage, record, NEIGHBOURS)
    vectors = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for shard in range(SHARDS):
        rows = np.flatnonzero(shard_of(USERS, SHARDS) == shard)
        nearest = Index(vectors).search(vectors[rows], 10, rows)
        table = neighbour_table(USERS.take(pa.array(rows)), "gifts", "users", USERS, nearest)
        run.commit(shard, {"gifts.users": table}, UserCounts(len(rows), len(rows)))
    run.publish(Provenance(users_in=30))


def test_an_erased_user_has_no_neighbours_and_is_no_neighbour(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    publish(storage)
    before = read_neighbours(tmp_path, DATE, "gifts", "users")
    own = before["user_id"].to_pylist().count("user-07")
    of_others = before["neighbour_id"].to_pylist().count("user-07")
    assert own == 10
    assert of_others
    assert len(find_user_data(storage, GONE)) > 1
    erase(storage, "neighbours", DATE, GONE)
    after = read_neighbours(tmp_path, DATE, "gifts", "users", verify=True)
    assert len(after) == len(before) - own - of_others
    assert "user-07" not in {*after["user_id"].to_pylist(), *after["neighbour_id"].to_pylist()}
    assert not find_user_data(storage, GONE)
    now = find_manifest(storage, DATE, "neighbours")
    assert now is not None
    assert (now.users.published, dict(now.users.ineligible)) == (29, {"erased": 1})
