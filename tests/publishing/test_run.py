"""A publishing run from open to publication, on a local folder and on a real S3 server process."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_day import (
    ARMS,
    DATE,
    INPUTS,
    PROVENANCE,
    SHARDS,
    USERS,
    commit_all,
    counts_of,
    publish_day,
    record,
    slates,
    tables_of,
    users_of,
    whole_day,
)

from rayrec import read_slates
from rayrec.data.schemas import SLATE
from rayrec.errors import ConfigError, PublicationError
from rayrec.publishing import Manifest, PublishingRun, UserCounts, find_manifest, read_manifest
from rayrec.storage import Storage


def slate_files(storage: Storage) -> list[str]:
    return [file.path for file in storage.list("slates") if file.path.endswith(".parquet")]


def test_a_published_date_reads_back_complete(storage: Storage) -> None:
    assert publish_day(storage).outcome == "published"
    assert read_slates(storage.root, DATE, verify=True).equals(whole_day())


def test_the_manifest_names_inputs_models_prompt_code_counts_and_files(storage: Storage) -> None:
    publish_day(storage)
    manifest = json.loads(storage.read("slates/dt=2011-08-31/manifest.json"))
    assert manifest["dt"] == "2011-08-31"
    assert manifest["inputs"][0] == {"path": "events/2011-08-29.csv", "size": 100, "version": "a", "rows": 7}
    assert manifest["models"] == {"item": "f1", "lm": "f2"}
    assert (manifest["prompt_hash"], manifest["code_version"]) == ("p", "code-1")
    assert manifest["users"] == {
        "users_in": 69,
        "published": 60,
        "quarantined": {"prompt failed": 6},
        "ineligible": {"min_events": 3},
    }
    assert manifest["quarantined_rows"] == {"no user": 3}
    assert manifest["engine"] == {"prompts": 6}
    assert manifest["rows"] == sum(file["rows"] for file in manifest["files"]) == 600
    assert [(file["arm"], file["shard"]) for file in manifest["files"]] == [(a, s) for a in ARMS for s in range(SHARDS)]
    assert manifest["fingerprinted_settings"] == record().fingerprinted_settings
    assert sorted(file["path"] for file in manifest["files"]) == slate_files(storage)


def test_manifest_and_receipt_round_trip_through_json(local: Storage) -> None:
    manifest = publish_day(local).manifest
    assert Manifest.from_json(manifest.to_json(), "here") == manifest
    assert manifest.to_json() == read_manifest(local.root, DATE).to_json()
    receipt = PublishingRun(local, record()).receipts()[0]
    assert type(receipt).from_json(receipt.to_json(), "here") == receipt


def test_files_have_the_slate_schema_zstd_and_their_order(local: Storage) -> None:
    publish_day(local)
    for path in slate_files(local):
        file = pq.ParquetFile(local.open(path))
        assert file.schema_arrow.equals(SLATE)
        assert file.metadata.row_group(0).column(0).compression == "ZSTD"
        assert [column.column_index for column in file.metadata.row_group(0).sorting_columns] == [3, 4]


def test_rows_in_any_order_are_written_sorted(local: Storage) -> None:
    run = PublishingRun.open(local, record())
    for shard in range(SHARDS):
        backwards = {arm: table.take(np.arange(table.num_rows)[::-1]) for arm, table in tables_of(shard).items()}
        run.commit(shard, backwards, counts_of(shard), {})
    run.publish(PROVENANCE)
    assert read_slates(local.root, DATE).equals(whole_day())


@pytest.mark.parametrize("code", ["code-1", "code-2"])
def test_a_rerun_of_a_published_date_changes_nothing(storage: Storage, code: str) -> None:
    publish_day(storage)
    before = storage.list()
    run = PublishingRun.open(storage, dataclasses.replace(record(), code_version=code))
    assert run.published is not None
    assert run.publish(PROVENANCE).outcome == "published by another run"
    assert storage.list() == before


def test_a_preview_matches_open_and_writes_nothing(local: Storage) -> None:
    run = PublishingRun.preview(local, record())
    assert (run.published, run.receipts(), local.list()) == (None, {}, [])
    publish_day(local)
    before = local.list()
    assert PublishingRun.preview(local, record()).published == read_manifest(local.root, DATE)
    with pytest.raises(PublicationError, match="already published"):
        PublishingRun.preview(local, record(name="another"))
    assert local.list() == before


@pytest.mark.parametrize("change", [{"code_version": "code-2"}, {"inputs": INPUTS[:1]}])
def test_shards_of_other_code_or_inputs_are_not_resumed(local: Storage, change: dict[str, Any]) -> None:
    commit_all(PublishingRun.open(local, record()))
    other = dataclasses.replace(record(), **change)
    assert PublishingRun.open(local, other).receipts() == {}
    assert publish_day(local, other).outcome == "published"


def test_a_withdrawn_date_can_be_published_again_from_its_receipts(local: Storage) -> None:
    publish_day(local)
    before = slate_files(local)
    local.delete("slates/dt=2011-08-31/manifest.json")
    run = PublishingRun.open(local, record())
    assert sorted(run.receipts()) == [0, 1, 2]
    assert run.publish(PROVENANCE).outcome == "published"
    assert slate_files(local) == before


def test_the_second_attempt_at_a_shard_gets_the_receipt_of_the_first_and_leaves_no_files(storage: Storage) -> None:
    run = PublishingRun.open(storage, record())
    first = run.commit(0, tables_of(0), counts_of(0), {})
    before = storage.list()
    assert run.commit(0, tables_of(0), counts_of(0), {}) == first
    assert storage.list() == before


def test_a_receipt_with_a_lost_response_is_recognised(local: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    run, create = PublishingRun.open(local, record()), Storage.create
    monkeypatch.setattr(Storage, "create", lambda *args: create(*args) and False)
    commit_all(run)
    assert len(slate_files(local)) == SHARDS * len(ARMS)
    assert run.publish(PROVENANCE).outcome == "published"
    assert read_slates(local.root, DATE).equals(whole_day())


def test_an_arm_without_users_is_published_as_empty(local: Storage) -> None:
    run = PublishingRun.open(local, record())
    for shard in range(SHARDS):
        tables = {"control": slates(users_of(shard), "control"), "llm": SLATE.empty_table()}
        run.commit(shard, tables, counts_of(shard), {})
    run.publish(PROVENANCE)
    assert read_slates(local.root, DATE, arm="llm").equals(SLATE.empty_table())
    assert read_slates(local.root, DATE, arm="control").num_rows == 300


def test_users_split_over_arms_count_once(local: Storage) -> None:
    run = PublishingRun.open(local, record())
    for shard in range(SHARDS):
        users = users_of(shard)
        tables = {"control": slates(users[::2], "control"), "llm": slates(users[1::2], "llm")}
        run.commit(shard, tables, counts_of(shard), {})
    assert run.publish(PROVENANCE).manifest.users.published == len(USERS)


def test_publish_names_unfinished_shards(local: Storage) -> None:
    run = PublishingRun.open(local, record())
    run.commit(1, tables_of(1), counts_of(1), {})
    with pytest.raises(PublicationError, match="2 of 3 shards are not done: 0, 2"):
        run.publish(PROVENANCE)
    assert find_manifest(local, DATE) is None


def test_commit_refuses_users_that_do_not_add_up(local: Storage) -> None:
    run = PublishingRun.open(local, record())
    lost = dataclasses.replace(counts_of(0), ineligible={})
    with pytest.raises(PublicationError, match=r"users do not add up: .* users in, but"):
        run.commit(0, tables_of(0), lost, {})
    miscounted = UserCounts(5, 5)
    with pytest.raises(PublicationError, match=r"5 users counted as published, .* have a slate"):
        run.commit(0, tables_of(0), miscounted, {})
    with pytest.raises(PublicationError, match=r"the arms are \['control'\], not \['control', 'llm'\]"):
        run.commit(0, {"control": tables_of(0)["control"]}, counts_of(0), {})
    assert slate_files(local) == []


def test_publish_refuses_when_a_shard_has_lost_a_user(local: Storage) -> None:
    run = PublishingRun.open(local, record())
    commit_all(run)
    with pytest.raises(PublicationError, match="70 users have a history, 69 went into the shards"):
        run.publish(dataclasses.replace(PROVENANCE, users_in=70))
    assert find_manifest(local, DATE) is None


def test_publish_refuses_a_date_without_slates(local: Storage) -> None:
    run = PublishingRun.open(local, record())
    for shard in range(SHARDS):
        nobody = dict.fromkeys(ARMS, SLATE.empty_table())
        run.commit(shard, nobody, UserCounts(4, 0, {}, {"min_events": 4}), {})
    with pytest.raises(PublicationError, match=r"nobody has a slate.*'min_events': 12"):
        run.publish(dataclasses.replace(PROVENANCE, users_in=12))


@pytest.mark.parametrize("damage", ["missing", "shorter"])
def test_publish_refuses_files_that_differ_from_their_receipts(storage: Storage, damage: str) -> None:
    run = PublishingRun.open(storage, record())
    commit_all(run)
    victim = run.receipts()[1].files[0].path
    if damage == "missing":
        storage.delete(victim)
    else:
        storage.write(victim, b"half")
    with pytest.raises(PublicationError, match="1 of 6 files are not as their receipts say") as error:
        run.publish(PROVENANCE)
    assert victim in str(error.value)
    receipt = f"runs/dt=2011-08-31/{run.record.run_id}/receipts/shard=0001.json"
    assert f"delete {receipt}" in error.value.hint
    storage.delete(receipt)  # as the error's hint says
    assert publish_day(storage).outcome == "published"
    assert read_slates(storage.root, DATE, verify=True).equals(whole_day())


def test_an_invalid_manifest_is_a_clear_error(local: Storage) -> None:
    local.write("slates/dt=2011-08-31/manifest.json", b'{"dt": "2011-08-31"}')
    with pytest.raises(PublicationError, match="not a manifest of this version"):
        PublishingRun.open(local, record())


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a=b c"])
def test_an_arm_name_unusable_as_a_folder_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name an arm"):
        dataclasses.replace(record(), arms=(name,))
