"""Embeddings are published like slates: completely, once, and without overwriting another run."""

from __future__ import annotations

import datetime
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rayrec.embeddings import read_embeddings, vectors_of
from rayrec.embeddings.embedding_tables import EMBEDDINGS, embedding_schema, embedding_table
from rayrec.errors import PublicationError
from rayrec.numerics.hashing import digest, shard_of
from rayrec.publishing import InputRecord, Provenance, PublishingRun, RunRecord, UserCounts, find_manifest
from rayrec.storage import Storage

DATE = datetime.date(2011, 8, 31)
SHARDS, DIM = 3, 4
USERS = pa.array([f"user-{n:02d}" for n in range(30)])
SOURCES = ("events", "profile")
TEXTS = ("gifts", "bags")
PROVENANCE = Provenance(users_in=len(USERS), models={"embedder": "f"})


def record(dim: int = DIM) -> RunRecord:
    fingerprinted_settings = {"embeddings": {"model": {"dim": dim}}}
    return RunRecord(
        DATE,
        digest(fingerprinted_settings),
        fingerprinted_settings,
        (InputRecord("events.csv", 1, "a"),),
        SHARDS,
        TEXTS,
        "code-1",
    )


def tables_of(shard: int, dim: int = DIM) -> dict[str, pa.Table]:
    users = USERS.filter(pa.array(shard_of(USERS, SHARDS) == shard))
    found = {}
    for text in TEXTS:
        rows = [np.random.default_rng([int(str(user)[-2:]), len(text)]).normal(size=dim) for user in users]
        vectors = np.asarray(rows, np.float32).reshape(-1, dim)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        present = np.array([[True, int(str(user)[-2:]) % 2 == 0] for user in users]).reshape(-1, 2)
        found[text] = embedding_table(users, text, vectors, present, SOURCES)
    return found


def commit(run: PublishingRun, shards: range = range(SHARDS), dim: int = DIM) -> None:
    for shard in shards:
        tables = tables_of(shard, dim)
        run.commit(shard, tables, UserCounts(tables["gifts"].num_rows, tables["gifts"].num_rows))


def test_the_readers_return_the_published_rows(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    run = PublishingRun.open(storage, record(), EMBEDDINGS)
    commit(run)
    assert run.publish(PROVENANCE).outcome == "published"
    table = read_embeddings(tmp_path, DATE, "bags", verify=True)
    assert table.equals(pa.concat_tables([tables_of(shard)["bags"] for shard in range(SHARDS)]))
    assert sorted(table["user_id"].to_pylist()) == USERS.to_pylist()
    assert vectors_of(table).shape == (30, DIM)
    assert table.filter(pa.array([u == "user-03" for u in table["user_id"].to_pylist()]))["sources"].to_pylist() == [
        ["events"]
    ]
    one = read_embeddings(tmp_path, DATE, "gifts", users=["user-07", "nobody"])
    assert one["user_id"].to_pylist() == ["user-07"]


def test_a_date_may_be_given_as_text(tmp_path: Path) -> None:
    run = PublishingRun.open(Storage(str(tmp_path)), record(), EMBEDDINGS)
    commit(run)
    run.publish(PROVENANCE)
    for date in ("2011-08-31", datetime.datetime(2011, 8, 31, 7, 30)):
        assert read_embeddings(tmp_path, date, "gifts").equals(read_embeddings(tmp_path, DATE, "gifts"))
    with pytest.raises(PublicationError, match=r"'31\.08\.2011' is not a date"):
        read_embeddings(tmp_path, "31.08.2011", "gifts")


def test_readers_see_nothing_before_the_manifest_and_a_run_resumes_from_its_receipts(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    commit(PublishingRun.open(storage, record(), EMBEDDINGS), range(2))
    with pytest.raises(PublicationError, match="no embeddings are published"):
        read_embeddings(tmp_path, DATE, "bags")
    resumed = PublishingRun.open(storage, record(), EMBEDDINGS)
    assert sorted(resumed.receipts()) == [0, 1]
    with pytest.raises(PublicationError, match="1 of 3 shards are not done"):
        resumed.publish(PROVENANCE)
    commit(resumed, range(2, 3))
    assert resumed.publish(PROVENANCE).outcome == "published"


def test_a_rerun_does_nothing_and_another_run_is_an_error(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    run = PublishingRun.open(storage, record(), EMBEDDINGS)
    commit(run)
    run.publish(PROVENANCE)
    before = {file.path: file.version for file in storage.list()}
    again = PublishingRun.open(storage, record(), EMBEDDINGS)
    assert again.published == find_manifest(storage, DATE, "embeddings")
    assert {file.path: file.version for file in storage.list()} == before
    with pytest.raises(PublicationError, match=r"embeddings\.model\.dim: 4 -> 8"):
        PublishingRun.open(storage, record(8), EMBEDDINGS)


def test_of_many_attempts_and_runs_one_is_published_and_no_other_files_remain(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    runs = [PublishingRun.open(storage, record(), EMBEDDINGS) for _ in range(4)]
    other = PublishingRun.open(storage, record(8), EMBEDDINGS)
    commit(other, dim=8)

    def drive(run: PublishingRun) -> str:
        commit(run)
        return run.publish(PROVENANCE).outcome

    with ThreadPoolExecutor(4) as pool:
        outcomes = sorted(pool.map(drive, runs))
    assert outcomes == ["published"] + ["published by another run"] * 3
    with pytest.raises(PublicationError, match="already published"):
        other.publish(PROVENANCE)
    manifest = find_manifest(storage, DATE, "embeddings")
    assert manifest is not None
    left = {file.path for file in storage.list("embeddings")}
    assert left == {"embeddings/dt=2011-08-31/manifest.json", *(file.path for file in manifest.files)}
    assert other.receipts() == {}


def test_a_changed_file_is_an_error(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    run = PublishingRun.open(storage, record(), EMBEDDINGS)
    commit(run)
    manifest = run.publish(PROVENANCE).manifest
    path = next(file.path for file in manifest.files if file.arm == "gifts")
    storage.write(path, bytes(storage.info(path).size))
    with pytest.raises(PublicationError, match="sha256"):
        read_embeddings(tmp_path, DATE, "gifts", verify=True)
    storage.delete(path)
    with pytest.raises(PublicationError, match="missing"):
        read_embeddings(tmp_path, DATE, "gifts")
    with pytest.raises(PublicationError, match="the instructions are gifts, bags"):
        read_embeddings(tmp_path, DATE, "vintage")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda t: t.set_column(2, t.schema.field("vector"), zeros(t)), "length 1"),
        (lambda t: pa.concat_tables([t, t.slice(0, 1)]), "sorted, or a user occurs twice"),
        (lambda t: t.drop_columns(["sources"]), "columns"),
        (lambda t: tables_of(1)["gifts"], "another shard"),
        (lambda t: tables_of(0)["bags"], "another instruction"),
        (lambda t: t.slice(1), "do not add up"),
    ],
)
def test_a_wrong_embedding_is_not_written(tmp_path: Path, wrong: object, says: str) -> None:
    run = PublishingRun.open(Storage(str(tmp_path)), record(), EMBEDDINGS)
    tables = tables_of(0)
    users = UserCounts(tables["gifts"].num_rows, tables["gifts"].num_rows)
    with pytest.raises(PublicationError, match=says):
        run.commit(0, tables | {"gifts": wrong(tables["gifts"])}, users)  # type: ignore[operator]
    assert run.receipts() == {}
    assert not run.storage.list("embeddings")


def zeros(table: pa.Table) -> pa.Array:
    of = embedding_schema(DIM).field("vector").type
    return pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(table.num_rows * DIM, np.float32)), type=of)
