"""Sixteen concurrent runs of one date: one manifest, and readers see nothing or a complete publication."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier

import pytest
from racing import race
from small_day import DATE, PROVENANCE, commit_all, publish_day, record, whole_day

from rayrec import read_slates
from rayrec.errors import PublicationError
from rayrec.publishing import PublishingRun, RunRecord, find_manifest, read_manifest
from rayrec.storage import Storage

pytestmark = pytest.mark.slow  # sixteen processes at once

RUNS = 16


class WatchingReader:
    """Reads the date repeatedly; fails at the end if it ever saw anything but one racer's complete publication."""

    def __init__(self, root: str) -> None:
        self.nothing, self.everything = 0, 0  # number of reads, by result
        self._root, self._done, self._pool = root, threading.Event(), ThreadPoolExecutor(1)

    def _watch(self) -> None:
        while not self._done.is_set():
            if find_manifest(Storage(self._root), DATE) is None:
                self.nothing += 1
                continue
            size = read_manifest(self._root, DATE).fingerprinted_settings["slate"]["size"]
            assert read_slates(self._root, DATE, verify=True).equals(whole_day(size))
            self.everything += 1

    def __enter__(self) -> WatchingReader:
        self._watching = self._pool.submit(self._watch)
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._watching.result()
        self._pool.shutdown()


def test_sixteen_drivers_of_one_run_agree_on_one_publication(storage_root: str) -> None:
    storage, line = Storage(storage_root), threading.Barrier(RUNS)

    def drive(_: int) -> str:
        run = PublishingRun.open(storage, record())
        line.wait()
        commit_all(run)  # every driver scores every shard: 16 attempts each
        return run.publish(PROVENANCE).outcome

    with WatchingReader(storage_root) as reader, ThreadPoolExecutor(RUNS) as pool:
        outcomes = sorted(pool.map(drive, range(RUNS)))
    assert outcomes == ["published"] + ["published by another run"] * (RUNS - 1)
    assert reader.nothing > 0
    assert_only_the_manifest_and_its_files_are_left(storage)
    assert read_slates(storage_root, DATE, verify=True).equals(whole_day())


def test_of_sixteen_runs_with_different_settings_one_publishes_and_the_others_fail(
    storage_root: str,
) -> None:
    with WatchingReader(storage_root) as reader:
        ended = race(publish_with_size, storage_root, range(1, RUNS + 1))
    winner = read_manifest(storage_root, DATE).fingerprinted_settings["slate"]["size"]
    assert [size for size, end in ended.items() if end == "published"] == [winner]
    losers = {size: end for size, end in ended.items() if size != winner}
    assert all(f"slate.size: {winner} -> {size}" in end for size, end in losers.items())
    assert reader.nothing > 0
    assert_only_the_manifest_and_its_files_are_left(Storage(storage_root))
    assert read_slates(storage_root, DATE, verify=True).equals(whole_day(winner))


def publish_with_size(root: str, size: int, barrier: Barrier) -> str:
    run = PublishingRun.open(Storage(root), sized(size))
    commit_all(run, size)
    barrier.wait()
    try:
        return run.publish(PROVENANCE).outcome
    except PublicationError as error:
        return str(error)


def sized(size: int) -> RunRecord:
    return record(slate={"size": size})


def test_a_losing_run_can_publish_after_the_date_is_withdrawn(storage_root: str) -> None:
    storage = Storage(storage_root)
    loser = PublishingRun.open(storage, sized(7))
    commit_all(loser, 7)
    publish_day(storage)
    with pytest.raises(PublicationError, match=r"slate\.size: 5 -> 7"):
        loser.publish(PROVENANCE)
    assert loser.receipts() == {}
    storage.delete("slates/dt=2011-08-31/manifest.json")
    assert publish_day(storage, sized(7)).outcome == "published"
    assert read_slates(storage_root, DATE, verify=True).equals(whole_day(7))


def test_a_winner_does_not_touch_the_files_of_a_run_still_in_progress(storage_root: str) -> None:
    storage = Storage(storage_root)
    other = PublishingRun.open(storage, sized(7))
    commit_all(other, 7)
    publish_day(storage)
    paths = {file.path for file in storage.list()}
    assert all(file.path in paths for receipt in other.receipts().values() for file in receipt.files)


def assert_only_the_manifest_and_its_files_are_left(storage: Storage) -> None:
    manifest = find_manifest(storage, DATE)
    assert manifest is not None
    left = {file.path for file in storage.list("slates")}
    assert left == {"slates/dt=2011-08-31/manifest.json", *(file.path for file in manifest.files)}
