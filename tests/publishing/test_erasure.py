"""Erasure of users from a published date."""

from __future__ import annotations

import dataclasses

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import small_day

from rayrec.data.erasure_list import ErasureList
from rayrec.data.schemas import COUNTERFACTUAL_PROPENSITY
from rayrec.publishing import PublishingRun
from rayrec.publishing.erasure import erase
from rayrec.publishing.manifest import find_manifest
from rayrec.publishing.slate_reader import read_counterfactual_propensities, read_slates
from rayrec.storage import Storage, layout
from rayrec.storage.tables import write_arrow

FOLDER = layout.slates_folder(small_day.DATE)
TWO = small_day.users_of(1)[:2]


def listed(*users: str) -> ErasureList:
    return ErasureList(b"s", frozenset(ErasureList(b"s").token(user) for user in users))


def test_other_users_retain_their_slates_and_all_users_are_counted(local: Storage) -> None:
    old = small_day.publish_day(local).manifest
    erase(local, layout.SLATES, small_day.DATE, listed(*TWO))
    now = find_manifest(local, small_day.DATE)
    assert now is not None
    slates = read_slates(local.root, small_day.DATE, verify=True)
    everybody = small_day.whole_day()
    assert slates.equals(everybody.filter(pc.invert(pc.is_in(everybody["user_id"], pa.array(TWO)))))
    assert (now.users.users_in, now.users.published) == (old.users.users_in, old.users.published - 2)
    assert now.users.ineligible == {**old.users.ineligible, "erased": 2}
    assert not now.users.balance_error()
    assert now.rows == slates.num_rows == sum(file.rows for file in now.files)
    assert {file.path for file in old.files if file.shard != 1} < {file.path for file in now.files}
    assert {info.path for info in local.list(FOLDER)} == {f"{FOLDER}/manifest.json", *(f.path for f in now.files)}
    rewritten = next(file for file in now.files if file.shard == 1)
    with local.open(rewritten.path) as file:
        assert pq.ParquetFile(file).metadata.row_group(0).sorting_columns  # readers rely on it
    assert now.identity == old.identity


def test_a_shard_with_only_erased_users_has_no_file(local: Storage) -> None:
    small_day.publish_day(local)
    erase(local, layout.SLATES, small_day.DATE, listed(*small_day.users_of(1)))
    now = find_manifest(local, small_day.DATE)
    assert now is not None
    assert {file.shard for file in now.files} == {0, 2}
    assert set(read_slates(local.root, small_day.DATE)["user_id"].to_pylist()).isdisjoint(small_day.users_of(1))


def test_a_date_without_erased_users_is_unchanged(local: Storage) -> None:
    small_day.publish_day(local)
    before = [(info.path, info.version) for info in local.list()]
    erase(local, layout.SLATES, small_day.DATE, listed("somebody"))
    assert [(info.path, info.version) for info in local.list()] == before


def test_the_manifest_names_retrained_models(local: Storage) -> None:
    old = small_day.publish_day(local).manifest
    name, fingerprint = next(iter(old.models.items()))
    erase(local, layout.SLATES, small_day.DATE, listed("somebody"), {fingerprint: "another", "of another day": "x"})
    now = find_manifest(local, small_day.DATE)
    assert now == dataclasses.replace(old, models={**old.models, name: "another"}, attempt=now.attempt if now else "")
    assert read_slates(local.root, small_day.DATE, verify=True).equals(small_day.whole_day())


@pytest.mark.parametrize("moment", ["before the manifest", "after the manifest"])
def test_a_killed_erasure_completes_when_repeated(local: Storage, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small_day.publish_day(local)
    write = Storage.write

    def killed(self: Storage, path: str, data: bytes) -> None:
        if path.endswith("manifest.json"):
            if moment == "after the manifest":
                write(self, path, data)
            raise KeyboardInterrupt
        write(self, path, data)

    with monkeypatch.context() as patched:
        patched.setattr(Storage, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            erase(local, layout.SLATES, small_day.DATE, listed(*TWO))
    assert read_slates(local.root, small_day.DATE, verify=True).num_rows  # a complete date, before or after the erasure
    erase(local, layout.SLATES, small_day.DATE, listed(*TWO))
    now = find_manifest(local, small_day.DATE)
    assert now is not None
    assert now.users.ineligible["erased"] == 2
    assert {info.path for info in local.list(FOLDER)} == {f"{FOLDER}/manifest.json", *(f.path for f in now.files)}


def test_an_unpublished_run_loses_its_shards_with_erased_users(local: Storage) -> None:
    run = PublishingRun.open(local, small_day.record())
    small_day.commit_all(run)
    erase(local, layout.SLATES, small_day.DATE, listed(*TWO))
    assert sorted(run.receipts()) == [0, 2]
    assert all("shard=0001" not in info.path for info in local.list(FOLDER))


def test_counterfactual_propensities_of_erased_users_are_erased(local: Storage) -> None:
    manifest = small_day.publish_day(local).manifest
    ids = [f"{small_day.DATE}/control/{user}" for user in small_day.users_of(1)]
    rows = {
        "slate_id": pa.array(ids),
        "rank": pa.array([1] * len(ids), pa.int16()),
        "target_arm": pa.array(["llm"] * len(ids))
        .dictionary_encode()
        .cast(COUNTERFACTUAL_PROPENSITY.field("target_arm").type),
        "propensity": pa.array([0.5] * len(ids), pa.float32()),
        "unsupported": pa.array([0.0] * len(ids), pa.float32()),
        "drawn": pa.nulls(len(ids), pa.list_(pa.uint64())),
        "marginal": pa.nulls(len(ids), pa.float32()),
        "own_marginal": pa.nulls(len(ids), pa.float32()),
    }
    path = layout.counterfactual_propensities_path(small_day.DATE, manifest.run_id, 1)
    write_arrow(local, path, pa.table(rows, schema=COUNTERFACTUAL_PROPENSITY))
    erase(local, layout.SLATES, small_day.DATE, listed(*TWO))
    left = read_counterfactual_propensities(local, manifest, 1)["slate_id"].to_pylist()
    assert left == [name for name in ids if name.rsplit("/", 1)[1] not in TWO]
