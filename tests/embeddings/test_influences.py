"""Published influences: their checks, and erasure."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rayrec.data.erasure_list import ErasureList
from rayrec.embeddings import read_influences
from rayrec.embeddings.embedding_tables import INFLUENCE, INFLUENCES, check_influences
from rayrec.errors import PublicationError
from rayrec.numerics.hashing import digest, shard_of
from rayrec.pipeline.user_data_inventory import find_user_data
from rayrec.publishing import Provenance, PublishingRun, RunRecord, UserCounts
from rayrec.publishing.erasure import erase
from rayrec.storage import Storage

DATE, SHARDS, EACH = datetime.date(2011, 8, 31), 3, 4
USERS = pa.array([f"user-{n:02d}" for n in range(30)])
GONE = ErasureList(b"s", frozenset([ErasureList(b"s").token("user-07")]))


def rows(shard: int = 0) -> pa.Table:
    users = USERS.filter(pa.array(shard_of(USERS, SHARDS) == shard))
    n = len(users) * EACH
    columns = {
        "user_id": users.take(pa.array(np.repeat(np.arange(len(users)), EACH))),
        "instruction_id": ["gifts"] * n,
        "rank": np.tile(np.arange(1, EACH + 1), len(users)),
        "item_id": ["lamp"] * n,
        "ts": np.arange(n),
        "event": ["buy"] * n,
        "influence": np.tile(np.linspace(1, 0, EACH), len(users)),
        "alignment": np.zeros(n),
        "removed": [False] * n,
    }
    return pa.table({name: pa.array(column).cast(INFLUENCE.field(name).type) for name, column in columns.items()}).cast(
        INFLUENCE
    )


def with_column(name: str, values: object) -> pa.Table:
    table = rows()
    at = table.column_names.index(name)
    return table.set_column(at, INFLUENCE.field(name), pa.array(values, INFLUENCE.field(name).type))


def test_the_check_of_valid_rows_returns_their_users() -> None:
    expected = sorted(USERS.filter(pa.array(shard_of(USERS, SHARDS) == 0)).to_pylist())
    assert check_influences(rows(), instruction="gifts", shard=0, shards=SHARDS).to_pylist() == expected
    assert not len(check_influences(rows()[:0], instruction="gifts", shard=0, shards=SHARDS))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (rows()[1:], "ranks"),
        (pa.concat_tables([rows()[EACH:], rows()[:EACH]]), "not sorted"),
        (with_column("influence", rows()["influence"].to_numpy()[::-1]), "descending"),
        (with_column("influence", [2.5] * len(rows())), "descending"),
        (with_column("influence", [np.nan] * len(rows())), "descending"),
        (with_column("instruction_id", ["bags"] * len(rows())), "instruction"),
        (rows().drop_columns(["removed"]), "columns"),
    ],
)
def test_invalid_rows_are_an_error(wrong: pa.Table, says: str) -> None:
    with pytest.raises(PublicationError, match=says):
        check_influences(wrong, instruction="gifts", shard=0, shards=SHARDS)
    with pytest.raises(PublicationError, match="another shard"):
        check_influences(rows(), instruction="gifts", shard=1, shards=SHARDS)


def test_influences_do_not_contain_erased_users(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    record = RunRecord(DATE, digest("all"), {}, (), SHARDS, ("gifts",), "code-1")
    run = PublishingRun.open(storage, record, INFLUENCES)
    for shard in range(SHARDS):
        users = len(rows(shard)) // EACH
        run.commit(shard, {"gifts": rows(shard)}, UserCounts(users, users))
    run.publish(Provenance(users_in=30))
    before = read_influences(tmp_path, DATE, "gifts")
    assert find_user_data(storage, GONE)
    erase(storage, "influences", DATE, GONE)
    after = read_influences(tmp_path, DATE, "gifts", verify=True)
    assert len(after) == len(before) - EACH
    assert "user-07" not in after["user_id"].to_pylist()
    assert not find_user_data(storage, GONE)
