"""A small published date: 60 users, 3 shards, two arms."""

from __future__ import annotations

import datetime
from collections.abc import Collection
from typing import Any

import numpy as np
import pyarrow as pa

from rayrec.data.schemas import SLATE
from rayrec.numerics.hashing import digest, shard_of
from rayrec.publishing import InputRecord, Provenance, PublishingRun, PublishResult, RunRecord, UserCounts
from rayrec.storage import Storage

DATE = datetime.date(2011, 8, 31)
SHARDS = 3
ARMS = ("control", "llm")
USERS = [f"user-{n:02d}" for n in range(60)]
SIZE = 5
INPUTS = (InputRecord("events/2011-08-29.csv", 100, "a"), InputRecord("events/2011-08-30.csv", 200, "b"))


def record(**settings: Any) -> RunRecord:
    """The run record of the date; keyword arguments change settings, as in `record(slate={"size": 20})`."""
    fingerprinted_settings = {
        "name": "test",
        "slate": {"size": SIZE, "policy": "greedy"},
        "data": {"window_days": 90},
    } | settings
    return RunRecord(DATE, digest(fingerprinted_settings), fingerprinted_settings, INPUTS, SHARDS, ARMS, "code-1")


def users_of(shard: int) -> list[str]:
    shards = shard_of(pa.array(USERS), SHARDS)
    return [user for user, its in zip(USERS, shards, strict=True) if its == shard]


def slates(users: list[str], arm: str, size: int = SIZE) -> pa.Table:
    """One slate per user; items and scores are functions of user and arm, so repeated computations agree."""
    rank = np.tile(np.arange(1, size + 1, dtype=np.int16), len(users))
    user = np.repeat(np.asarray(users, dtype=object), size)
    return pa.table(
        {
            "dt": pa.array([DATE] * len(user), pa.date32()),
            "arm": pa.array([arm] * len(user)),
            "slate_id": pa.array([f"{DATE}/{arm}/{name}" for name in user], pa.string()),
            "user_id": pa.array(user, pa.string()),
            "rank": pa.array(rank),
            "item_id": pa.array([f"item-{name[-2:]}-{at}" for name, at in zip(user, rank, strict=True)], pa.string()),
            "score": pa.array((1 / rank).astype(np.float32)),
            "source": pa.array(["ease"] * len(user)),
            "propensity": pa.array(np.ones(len(user), np.float32)),
        },
        schema=SLATE,
    )


def tables_of(shard: int, size: int = SIZE) -> dict[str, pa.Table]:
    return {arm: slates(users_of(shard), arm, size) for arm in ARMS}


def whole_day(size: int = SIZE) -> pa.Table:
    """The complete publication, in the reader's order."""
    return pa.concat_tables([slates(users_of(shard), arm, size) for arm in ARMS for shard in range(SHARDS)])


def counts_of(shard: int) -> UserCounts:
    """User counts of a shard; every shard also has two quarantined users and one ineligible user."""
    return UserCounts(len(users_of(shard)) + 3, len(users_of(shard)), {"prompt failed": 2}, {"min_events": 1})


PROVENANCE = Provenance(
    users_in=len(USERS) + 3 * SHARDS,
    models={"item": "f1", "lm": "f2"},
    prompt_hash="p",
    input_rows={"events/2011-08-29.csv": 7},
    quarantined_rows={"no user": 3},
    versions={"python": "3.11"},
)


def commit_all(run: PublishingRun, size: int = SIZE, done: Collection[int] = ()) -> None:
    for shard in range(SHARDS):
        if shard not in done:
            run.commit(shard, tables_of(shard, size), counts_of(shard), {"prompts": 2})


def publish_day(storage: Storage, run_record: RunRecord | None = None) -> PublishResult:
    """Run all steps: open, commit missing shards, publish."""
    run_record = run_record or record()
    run = PublishingRun.open(storage, run_record)
    commit_all(run, run_record.fingerprinted_settings["slate"]["size"], run.receipts())
    return run.publish(PROVENANCE)
