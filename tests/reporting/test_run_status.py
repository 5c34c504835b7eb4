"""The status of a run: rates, remaining time, the end, and a store that fails."""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from rayrec.errors import StorageError
from rayrec.monitoring.run_status import RunStatus, live_runs
from rayrec.storage import Storage, layout

DAY = datetime.date(2026, 3, 2)
PATH = layout.run_status_path(DAY, "0123")


def stored(storage: Storage) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(storage.read(PATH))
    return content


@dataclasses.dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_file_says_how_the_run_ended(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    status = RunStatus(storage, DAY)
    status.begin("0123", 4)
    status.enter("score")
    status.score(40, 10, 1)
    status.shard_done(12)
    status.end("failed", 2, "the store is full\n  where: a row of somebody")
    found = stored(storage)
    assert (found["state"], found["exit_code"], found["error"]) == ("failed", 2, "the store is full")
    assert (found["stage"], found["shards_done"], found["shards"]) == ("score", 2, 4)
    assert (found["date"], found["run_id"], found["users_done"], found["users"]) == ("2026-03-02", "0123", 22, 40)
    assert found["eta_s"] is None
    assert found["updated_at"] >= found["started_at"] > "2026"


def test_rate_and_remaining_time_leave_out_what_an_earlier_attempt_did(tmp_path: Path) -> None:
    clock = Clock()
    status = RunStatus(Storage(str(tmp_path)), DAY, clock=clock)
    clock.now = 100.0
    status.score(1000, 400, 2)
    clock.now = 110.0
    status.shard_done(100)
    assert (status.document.users_per_s, status.document.eta_s) == (10.0, 50.0)
    clock.now = 120.0
    status.shard_done(0)
    assert (status.document.users_per_s, status.document.eta_s, status.document.shards_done) == (5.0, 100.0, 4)
    status.enter("publish")
    assert (status.document.users_per_s, status.document.eta_s) == (None, None)


def test_shards_without_users_have_no_remaining_time(tmp_path: Path) -> None:
    status = RunStatus(Storage(str(tmp_path)), DAY)
    status.score(10, 0, 0)
    status.shard_done(0)
    assert (status.document.users_per_s, status.document.eta_s) == (0.0, None)


@pytest.mark.parametrize("error", [StorageError("the bucket is gone"), RuntimeError("the client has a defect")])
def test_a_store_that_fails_ends_nothing_and_is_said_once(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    class Failing:
        calls = 0

        def write(self, path: str, data: bytes) -> None:
            self.calls += 1
            raise error

    store = Failing()
    status = RunStatus(store, DAY)
    with caplog.at_level(logging.WARNING):
        status.begin("0123", 4)
        status.end("published", 0)
    assert store.calls == 2
    assert caplog.text.count("status.json cannot be written") == 1


def test_no_secret_and_no_control_character_is_stored(tmp_path: Path) -> None:
    status = RunStatus(Storage(str(tmp_path)), DAY)
    status.begin("0123", 4)
    status.end("failed", 1, "GET https://host/?X-Amz-Signature=abcdef0123 \x1b[31mfailed")
    error = stored(Storage(str(tmp_path)))["error"]
    assert "abcdef0123" not in error
    assert "\x1b" not in error


def test_a_run_that_never_began_writes_nothing(tmp_path: Path) -> None:
    status = RunStatus(Storage(str(tmp_path)), DAY)
    status.end("failed", 2, "no cluster")
    assert list(tmp_path.iterdir()) == []
    assert status.document.error == "no cluster"


def test_a_run_is_alive_while_its_status_is_written(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    assert live_runs(storage) == []
    status = RunStatus(storage, DAY)
    status.begin("0123", 4)
    slept: list[float] = []

    def killed(seconds: float) -> None:
        slept.append(seconds)

    def writing(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            content = stored(storage)
            storage.write(
                PATH, json.dumps(content | {"updated_at": f"{content['updated_at'][:10]}T23:59:59+00:00"}).encode()
            )

    status._ended.set()  # the process dies: nothing is written any more
    assert status._thread is not None
    status._thread.join()
    assert stored(storage)["state"] == "running"
    assert live_runs(storage, sleep=killed) == []
    assert len(slept) == 15
    slept.clear()
    assert live_runs(storage, sleep=writing) == [PATH]
    assert len(slept) == 3
    storage.write(PATH, json.dumps(stored(storage) | {"updated_at": "2026-03-02T00:00:00+00:00"}).encode())
    assert live_runs(storage, sleep=pytest.fail) == []  # of a run that was killed long ago
    status.end("published", 0)
    status._write()
    assert live_runs(storage, sleep=pytest.fail) == []
    storage.write(PATH, b"{half")
    assert live_runs(storage, sleep=pytest.fail) == []


def test_rate_and_remaining_time_know_the_shards_in_work(tmp_path: Path) -> None:
    clock = Clock()
    status = RunStatus(Storage(str(tmp_path)), DAY, clock=clock)
    status.score(1000, 400, 2)
    clock.now = 10.0
    status.reached(50)
    found = status.document
    assert (found.users_done, found.users_scored, found.users_per_s, found.eta_s) == (400, 50, 5.0, 110.0)
    status.shard_done(40)
    assert (status.document.users_done, status.document.users_per_s) == (440, 5.0)
    clock.now = 20.0
    status.shard_done(160)  # of arms without an LLM
    assert (status.document.users_per_s, status.document.eta_s) == (10.0, 40.0)
